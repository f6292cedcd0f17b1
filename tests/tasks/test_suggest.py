"""Drafts: what is seen becomes rules, and a person makes them a contract."""

import numpy as np
import pytest
import yaml

from data_contracts.contracts import load_contract
from data_contracts.errors import UsageError
from data_contracts.references import Verdict
from data_contracts.store import Dataset
from data_contracts.verdicts import check_table
from tasks.accept import accept_draft, accepted_name, try_contract, write_draft
from tasks.check_chunks import check_chunks
from tasks.stage import run_stage
from tasks.suggest import draft_contract
from tasks.table import table_of
from tests.datasets import NoSettings, make_dataset

N = 120
HALF = range(N // 2)


def prepared(root):
    """A dataset after cleaning, in which every kind of column says something."""
    rng = np.random.default_rng(0)
    spread = {
        name: rng.uniform(low, high, N).astype(np.float32)
        for name, low, high in (
            ("mean", 80, 160),
            ("std", 30, 60),
            ("sharpness", 200, 900),
            ("saturation", 20, 90),
            ("sigma", 0.5, 3),
            ("impulse", 0, 0.01),
        )
    }
    source = make_dataset(
        root,
        N,
        size=8,
        kind=np.array(["jpeg", "png"] * (N // 2), object),
        text=np.array([f"words {i}" if i % 2 else "" for i in range(N)], object),
        width=rng.integers(300, 700, N),
        height=rng.integers(300, 700, N),
        bytes=rng.integers(9_000, 90_000, N),
        **spread,
    )
    columns = {
        "keep": np.arange(N) % 10 > 0,
        "reason": np.where(np.arange(N) % 10 > 0, "", "dark").astype(object),
        "noise": np.full(N, "none", object),
    }
    return run_stage(
        "denoise",
        lambda build: build.writer.write(**columns),
        uri=source.uri,
        parent=source,
        version=1,
        settings=NoSettings(),
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def draft(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("drafts") / "set.draft.yaml"
    write_draft(reference, path, name="set")
    return path


@pytest.fixture(scope="module")
def contract(draft):
    return load_contract(draft, drafts=True)


def put(column, value, rows=range(N)):
    def change(frame):
        if isinstance(value, str | None):
            frame[column] = frame[column].astype(object)
        frame.loc[list(rows), column] = value

    return change


# For every rule of the draft a change to the reference's table that breaks it.
BREAKS = {
    "the table has its columns": lambda frame: frame.pop("mean"),
    "there are enough images": lambda frame: frame.drop(range(50, N)),
    "every image is listed once": put("path", "twice", [3, 4]),
    "most images are one of a kind": put("sha256", "0" * 64, HALF),
    "file kinds are there": put("kind", "", HALF),
    "file kinds are known": put("kind", "heic", [3]),
    "labels are there": put("label", None, [3]),
    "labels are known": put("label", "quince", [3]),
    "descriptions are mostly there": put("text", "", range(100)),
    "kinds of noise are there": put("noise", "", [3, 4]),
    "kinds of noise are known": put("noise", "speckle", [3]),
    "widths are in their range": put("width", 9, HALF),
    "heights are in their range": put("height", 9, HALF),
    "file sizes are in their range": put("bytes", 9, HALF),
    "mean grey levels are in their range": put("mean", 9, HALF),
    "spreads of grey are in their range": put("std", 2, HALF),
    "sharpnesses are in their range": put("sharpness", 2, HALF),
    "saturations are in their range": put("saturation", 200, HALF),
    "noise estimates are in their range": put("sigma", 20, HALF),
    "shares of impulse noise are in their range": put("impulse", 0.5, HALF),
    "most files are readable": put("ok", False, HALF),
    "cleaning keeps most images": put("keep", False, HALF),
    "cleaning keeps most images of each label": put("keep", False, range(0, N, 2)),
    "classes are as many as they were": put("label", "a"),
    "every class has images": put("label", "a", range(2, N)),
    "file kinds have not drifted": put("kind", "png"),
    "widths have not drifted": put("width", 300),
    "heights have not drifted": put("height", 300),
    "file sizes have not drifted": put("bytes", 9_999),
    "labels have not drifted": put("label", "a"),
    "mean grey levels have not drifted": put("mean", 99),
    "spreads of grey have not drifted": put("std", 31),
    "sharpnesses have not drifted": put("sharpness", 250),
    "saturations have not drifted": put("saturation", 30),
    "noise estimates have not drifted": put("sigma", 1),
    "kinds of noise have not drifted": put("noise", "impulse", HALF),
}


def test_the_reference_keeps_its_own_draft(reference, contract):
    dataset = Dataset(reference)
    found = check_chunks(contract, dataset)
    report = check_table(contract, table_of(dataset), arrays=found)
    assert {rule.verdict for rule in report.rules} == {Verdict.PASS}


def test_every_rule_of_the_draft_has_a_change_that_breaks_it(contract):
    assert [rule.name for rule in contract.rules] == list(BREAKS)


@pytest.mark.parametrize("name", BREAKS)
def test_every_rule_of_the_draft_has_teeth(name, reference, contract):
    frame = table_of(Dataset(reference))
    changed = BREAKS[name](frame)
    frame = changed if hasattr(changed, "columns") else frame
    (rule,) = [rule for rule in contract.rules if rule.name == name]
    alone = contract.model_copy(update={"rules": [rule], "arrays": []})
    result = check_table(alone, frame).rules[0]
    bites = {"critical": Verdict.FAIL, "warning": Verdict.WARN}
    assert result.verdict == bites[rule.severity], result.observed


def test_each_rule_says_what_was_seen(contract):
    whys = {rule.name: rule.why for rule in contract.rules}
    assert whys["labels are known"] == "120 images held a (60), b (60)."
    assert whys["there are enough images"].startswith("There were 120 images")
    assert whys["cleaning keeps most images"].startswith("108 of 120 readable images")


def test_what_was_not_so_is_no_rule(tmp_path):
    twice = np.array(["a.png", "a.png", "b.png"], object)
    source = make_dataset(tmp_path, 3, path=twice, sha256=np.full(3, "0", object))
    text = draft_contract(source, name="twice")
    assert "listed once" not in text
    assert "one of a kind" not in text


def test_free_text_is_no_closed_set(contract):
    assert "descriptions are known" not in {rule.name for rule in contract.rules}


def test_a_draft_is_refused_until_a_person_accepts_it(draft, tmp_path):
    with pytest.raises(UsageError, match="a draft that nobody has accepted"):
        load_contract(draft)
    out = tmp_path / "set.yaml"
    accept_draft(draft, out, owner="Ann: Lee")
    accepted = load_contract(out)
    assert (accepted.owner, accepted.draft) == ("Ann: Lee", False)
    assert accepted.after == "denoise"
    assert [r.name for r in accepted.rules] == list(BREAKS)
    with pytest.raises(UsageError, match="is no draft"):
        accept_draft(out, tmp_path / "again.yaml", owner="Ann")


def test_accepting_keeps_what_a_person_wrote(draft, tmp_path):
    mine = tmp_path / "mine.draft.yaml"
    text = draft.read_text().replace("{min_value: 60}", "{min_value: 7}  # we are few")
    mine.write_text(text)
    accept_draft(mine, tmp_path / "mine.yaml", owner="Ann")
    assert "{min_value: 7}  # we are few" in (tmp_path / "mine.yaml").read_text()


def test_a_file_that_is_there_is_not_written_over(draft, reference, tmp_path):
    with pytest.raises(UsageError, match="is there already"):
        write_draft(reference, draft, name="set")
    taken = tmp_path / "taken.yaml"
    taken.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        accept_draft(draft, taken, owner="Ann")
    assert accepted_name("a/b.draft.yaml") == "a/b.yaml"


def test_a_draft_with_a_fault_is_not_accepted(draft, tmp_path):
    broken = tmp_path / "broken.draft.yaml"
    broken.write_text(draft.read_text().replace("severity: critical", "severity: high"))
    with pytest.raises(UsageError, match="the contract is wrong"):
        accept_draft(broken, tmp_path / "broken.yaml", owner="Ann")
    assert not (tmp_path / "broken.yaml").exists()


def test_a_contract_can_be_tried_on_a_dataset(draft, reference):
    report, words = try_contract(draft, reference.uri, stage=None)
    assert report.verdict == Verdict.PASS
    assert words.startswith("Contract set 1.0.0 holds (")


@pytest.mark.parametrize("names", ["ab", "a"])
def test_a_bare_dataset_makes_a_draft_too(tmp_path, names):
    source = make_dataset(tmp_path, 4, names=names, ok=np.array([True] * 3 + [False]))
    text = draft_contract(source, name="bare")
    path = tmp_path / "bare.yaml"
    path.write_text(text)
    rules = load_contract(path, drafts=True)
    report = check_table(rules, table_of(Dataset(source)))
    assert report.verdict == Verdict.PASS
    assert yaml.safe_load(text)["after"] == "ingest"
