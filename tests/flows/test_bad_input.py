"""What goes wrong ends in one clear error, and loses nothing."""

import contextlib
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from data_contracts.errors import ContractError, UsageError, WorkspaceError
from data_contracts.store import Dataset, find_snapshots
from flows import workspace
from flows.cli import main
from flows.result import Clock
from flows.stages import prepare
from flows.train import run as run_train
from models.durable import locked
from tasks.checks import read_history
from tasks.validate import ContractSettings
from tests.flows.conftest import small_config
from tests.tasks.pictures import write_folders
from tests.tasks.test_ingest import ingest, tree


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "data=nowhere", "name=x"], 2, "nowhere"),
        (["train", "name=x"], 2, "data"),
        (["train", "data=.", "name=x", "trian.epochs=3"], 2, "train.epochs"),
        (["train", "data=.", "name=x", "train.epochs=0"], 2, "train.epochs"),
        (["train", "data=.", "name=x", "train.preset=smal"], 2, "small"),
        (["train", "data=.", "name=a/b"], 2, "name='a/b'"),
        (["predict", "name=nobody", "data=."], 2, "nobody"),
        (["models", "rollback", "name=nobody"], 2, "nobody"),
        (["data", "show", "uri=nowhere"], 2, "no dataset"),
        (["contracts", "suggest", "uri=nowhere"], 2, "no dataset"),
        (["contracts", "history", "uri=nowhere"], 2, "no dataset"),
        (["contracts", "history"], 2, "name=NAME"),
        (["contracts", "accept", "file=nowhere", "owner=me"], 2, "cannot be read"),
        (["tarin"], 2, "train"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    words, code, said, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--json"]) == code
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["exit_code"] == code
    assert said in error["message"]


def test_a_broken_contract_exits_3_and_names_the_images(tmp_path, capfd):
    root = write_folders(tmp_path / "in", a=8, b=8)
    for i in range(9):
        (root / "a" / f"bad{i}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert main(["train", f"data={root}", "name=x", "--json"]) == 3
    assert "a/bad0.jpg" in json.loads(capfd.readouterr().out)["error"]["message"]


def test_a_rejected_model_exits_4(trained, pictures, capfd):
    words = ["train", f"data={pictures}", "name=shop", "decode.image_size=32"]
    words += [
        "train.epochs=6",
        "train.batch_size=32",
        "gate.floor_top1=0.999",
        "--json",
    ]
    assert main(words) == 4
    found = json.loads(capfd.readouterr().out)
    assert found["verdict"] in {"fail", "inconclusive"}
    assert found["model"]["version"] == 2


@contextlib.contextmanager
def small_disk(place, *, size: str):
    """Mount a disk of that size; skip where that is not allowed."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing(tmp_path):
    root = tree(tmp_path / "in", {"a": 6, "b": 6})
    with small_disk(tmp_path / "disk", size="700k") as disk:
        before = ingest(root, disk)
        tree(root, {"a": 1200}, first=100)
        with pytest.raises(WorkspaceError, match="disk is full"):
            ingest(root, disk)
        assert [ref.digest for ref in find_snapshots(before.uri)] == [before.digest]
        assert Dataset(before).images[:].any(axis=(1, 2, 3)).all()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_workspace_without_permission_is_refused(tmp_path):
    root = tree(tmp_path / "in", {"a": 2, "b": 2})
    ingest(root, tmp_path / "mine")  # imports all that nobody may not read
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(WorkspaceError, match="No permission"):
            ingest(root, tmp_path / "theirs")
    finally:
        os.seteuid(0)


def test_two_runs_at_once_on_one_dataset_do_the_work_once(tmp_path, own_workspace):
    root = write_folders(tmp_path / "in", a=40, b=40)
    found, uri = [], str(own_workspace / "datasets" / "x")

    def run() -> None:
        config = small_config(root, name="x")
        found.append(prepare(str(root), config, uri=uri, clock=Clock())[0]["split"])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(find_snapshots(uri)) == 4


def test_one_training_run_at_a_time(trained_home, own_workspace, pictures):
    import shutil

    shutil.copytree(trained_home[0], own_workspace)
    run = next((own_workspace / "runs").iterdir())
    (run / "trained.json").unlink()
    with locked(run), pytest.raises(WorkspaceError, match="held by another run"):
        run_train(small_config(pictures))


def test_a_draft_of_a_contract_is_refused_before_any_work(pictures, tmp_path):
    draft = tmp_path / "mine.yaml"
    draft.write_text(OWN.replace("owner: me", "owner: me\ndraft: true"))
    config = small_config(pictures, contracts=ContractSettings(extra=[str(draft)]))
    with pytest.raises(UsageError, match="a draft that nobody has accepted"):
        run_train(config)
    assert not Path(workspace.dataset_uri("shop")).exists()


def test_a_contract_of_your_own_says_when_it_is_checked(pictures, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(OWN.replace("after: denoise\n", ""))
    config = small_config(pictures, contracts=ContractSettings(extra=[str(mine)]))
    with pytest.raises(UsageError, match="must say after which stage"):
        run_train(config)


def test_a_contract_of_your_own_stops_the_run(pictures, tmp_path, own_workspace):
    mine = tmp_path / "mine.yaml"
    mine.write_text(OWN)
    config = small_config(pictures, contracts=ContractSettings(extra=[str(mine)]))
    uri = workspace.dataset_uri("shop")
    with pytest.raises(ContractError, match="every picture is square"):
        prepare(config.data, config, uri=uri, clock=Clock())
    assert {ref.stage for ref in find_snapshots(uri)} == {"ingest", "clean", "denoise"}
    checked = [check.contract for check in read_history(uri)]
    assert checked == ["ingested", "cleaned", "mine"]


OWN = """
name: mine
version: 1.0.0
owner: me
after: denoise
why: To show it.
rules:
  - name: every picture is square
    type: expect_column_values_to_be_between
    kwargs: {column: height, min_value: 9000}
    nulls: allowed
    severity: critical
    why: To show it.
    fix: Mend it.
"""
