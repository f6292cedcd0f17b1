"""Versions, the champion pointer and the record of decisions."""

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import GateError, SchemaError, UsageError, WorkspaceError
from data_contracts.references import CheckResult, GateReport, ModelRef, Verdict
from models import durable, registry
from models.journal import Action, replay
from models.registry import champion, history, judge, promote, rollback

# What a process of its own does: add versions and crown each, now and then going back.
WORKER = """
import sys
from pathlib import Path
from data_contracts.references import CheckResult, GateReport
from models import registry

root, run, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
check = CheckResult(check="c", verdict="pass")
gate = GateReport(name="m", verdict="pass", checks=[check])
does = {"who": run, "why": ""}
for i in range(count):
    ref = registry.register(
        root, "m", build=lambda _: None, run_id=run.format(i), manifest={}
    )
    registry.judge(root, "m", version=ref.version, report=gate, who=run)
    if "{}" in run:
        registry.promote(root, "m", version=ref.version, force=True, **does)
    if count > 100 and i % 3 == 2:
        registry.rollback(root, "m", probe=print, **does)
"""


def start(root: Path, run: str, count: int) -> subprocess.Popen[bytes]:
    here = Path(__file__).parents[2]
    command = [sys.executable, "-c", WORKER, str(root), run, str(count)]
    return subprocess.Popen(command, cwd=here, stdout=subprocess.DEVNULL)


def answers(_: ModelRef) -> None:
    """Probe that finds nothing wrong."""


def build(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "w.bin").write_bytes(b"1234")
    (folder / "card.md").write_text("# A model")


def report(verdict: Verdict = Verdict.PASS, against: int | None = None) -> GateReport:
    check = CheckResult(check="test: top-1", verdict=verdict, detail="Because.")
    return GateReport(name="m", champion=against, verdict=verdict, checks=[check])


def add(root: Path, run_id: str, verdict: Verdict | None = Verdict.PASS) -> int:
    """Register a version and judge it against today's champion."""
    ref = registry.register(root, "m", build=build, run_id=run_id, manifest={"a": 1})
    if verdict is not None:
        current = champion(root, "m")
        against = current.version if current else None
        judge(root, "m", version=ref.version, report=report(verdict, against), who="t")
    return ref.version


def crown(root: Path, run_id: str) -> int:
    version = add(root, run_id)
    promote(root, "m", version=version, who="t", why="better")
    return version


def pointer(root: Path) -> str:
    return (root / "m" / "champion").read_text()


def test_first_version_is_whole_and_numbered_one(tmp_path):
    ref = registry.register(tmp_path, "m", build=build, run_id="r", manifest={"a": 1})
    manifest = json.loads((Path(ref.uri) / "manifest.json").read_text())
    assert ref.version == 1
    assert (Path(ref.uri) / "weights" / "w.bin").read_bytes() == b"1234"
    assert manifest["a"] == 1
    assert manifest["run_id"] == "r"
    assert list(manifest["files"]) == ["weights/w.bin"]


def test_a_run_registers_once(tmp_path):
    assert [add(tmp_path, run) for run in ("r", "s", "r")] == [1, 2, 1]


def test_a_run_that_registered_meanwhile_is_not_registered_again(tmp_path):
    def overtaken(folder: Path) -> None:
        add(tmp_path, "r")

    ref = registry.register(tmp_path, "m", build=overtaken, run_id="r", manifest={})
    assert ref.version == 1
    assert len(registry.versions(tmp_path, "m")) == 1


def test_a_retired_version_stays_retired(tmp_path):
    version = add(tmp_path, "r", None)
    registry.retire(tmp_path, "m", version=version, who="t", why="leaks")
    assert not judge(tmp_path, "m", version=version, report=report(), who="t")
    with pytest.raises(GateError, match="retired, not blessed"):
        promote(tmp_path, "m", version=version, who="t", why="")


def test_a_failed_build_leaves_nothing(tmp_path):
    def broken(folder: Path) -> None:
        build(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        registry.register(tmp_path, "m", build=broken, run_id="r", manifest={})
    assert [p.name for p in (tmp_path / "m").iterdir()] == [".lock"]
    assert registry.history(tmp_path, "m") == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkspaceError, match="No space left"):
        registry.register(tmp_path, "m", build=full, run_id="r", manifest={})
    assert registry.versions(tmp_path, "m") == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../m", "a/b", "/m", ".m", "m\n", "é", "a b", "x" * 65]
)
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="model name"):
        registry.register(tmp_path, name, build=build, run_id="r", manifest={})
    assert list(tmp_path.iterdir()) == []


def test_unknown_models_and_versions_are_named(tmp_path):
    add(tmp_path, "r")
    with pytest.raises(UsageError, match="there are: m"):
        registry.show(tmp_path, "n")
    with pytest.raises(UsageError, match="no version 7; there are: 1"):
        promote(tmp_path, "m", version=7, who="t", why="")
    assert champion(tmp_path, "n") is None


def test_only_a_pass_blesses(tmp_path):
    for i, verdict in enumerate(Verdict):
        version = add(tmp_path, f"r{i}", verdict)
        if verdict == Verdict.PASS:
            continue
        with pytest.raises(GateError, match="not blessed"):
            promote(tmp_path, "m", version=version, who="t", why="")
    assert champion(tmp_path, "m") is None
    rows = registry.versions(tmp_path, "m")
    assert [row["status"] for row in rows].count("blessed") == 1


def test_an_unjudged_version_is_not_promoted(tmp_path):
    version = add(tmp_path, "r", None)
    with pytest.raises(GateError, match="never judged"):
        promote(tmp_path, "m", version=version, who="t", why="")


def test_a_gate_record_is_never_edited(tmp_path):
    version = add(tmp_path, "r", Verdict.FAIL)
    path = tmp_path / "m" / "1" / "gate.json"
    before = path.read_bytes()
    again = report(Verdict.FAIL).model_copy(update={"evidence": {"x": 1}})
    assert not judge(tmp_path, "m", version=version, report=again, who="t")
    with pytest.raises(GateError, match="never edited"):
        judge(tmp_path, "m", version=version, report=report(), who="t")
    assert path.read_bytes() == before
    assert [e.event for e in history(tmp_path, "m")] == ["registered", "rejected"]


@pytest.mark.parametrize("changed", ["gate.json", "weights/w.bin"])
def test_what_changed_after_the_blessing_is_not_promoted(tmp_path, changed):
    version = add(tmp_path, "r")
    path = tmp_path / "m" / "1" / changed
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(GateError, match="not what was blessed"):
        promote(tmp_path, "m", version=version, who="t", why="")


def test_card_may_be_written_again(tmp_path):
    version = add(tmp_path, "r")
    ref = ModelRef(name="m", version=version, uri=str(tmp_path / "m" / "1"))
    registry.attach(ref, filename="card.md", text="# Better")
    promote(tmp_path, "m", version=version, who="t", why="")
    for name in ("gate.json", "../card.md", "weights/x.md"):
        with pytest.raises(UsageError):
            registry.attach(ref, filename=name, text="")


def test_a_candidate_gated_against_a_past_champion_is_not_promoted(tmp_path):
    crown(tmp_path, "r1")
    late, quick = add(tmp_path, "r2"), add(tmp_path, "r3")
    promote(tmp_path, "m", version=quick, who="t", why="")
    with pytest.raises(GateError, match=r"compared with version 1, .* now version 3"):
        promote(tmp_path, "m", version=late, who="t", why="")
    promote(tmp_path, "m", version=late, who="ann", why="I looked", force=True)
    assert pointer(tmp_path) == "2\n"


def test_promoting_the_champion_again_changes_nothing(tmp_path):
    crown(tmp_path, "r1")
    before = history(tmp_path, "m")
    promote(tmp_path, "m", version=1, who="t", why="again")
    assert history(tmp_path, "m") == before


def test_events_say_who_when_from_to_and_why(tmp_path):
    crown(tmp_path, "r1")
    crown(tmp_path, "r2")
    last = json.loads((tmp_path / "m" / "events.jsonl").read_text().splitlines()[-1])
    gate = tmp_path / "m" / "2" / "gate.json"
    assert last.pop("when") <= registry.now()
    assert last == {
        "event": "promoted",
        "version": 2,
        "from": 1,
        "to": 2,
        "who": "t",
        "why": "better",
        "digest": durable.sha256(gate),
    }


def test_an_inconclusive_gate_can_be_waived_by_a_person_only(tmp_path):
    add(tmp_path, "r1", Verdict.INCONCLUSIVE)
    add(tmp_path, "r2", Verdict.FAIL)
    with pytest.raises(UsageError, match="needs who= and why="):
        registry.waive(tmp_path, "m", version=1, who="ann", why=" ")
    with pytest.raises(GateError, match="only an inconclusive"):
        registry.waive(tmp_path, "m", version=2, who="ann", why="please")
    registry.waive(tmp_path, "m", version=1, who="ann", why="small shop")
    promote(tmp_path, "m", version=1, who="ann", why="")
    assert history(tmp_path, "m")[-2].why == "waived: small shop"


def test_rolling_back_twice_goes_back_two_steps(tmp_path):
    for run in ("r1", "r2", "r3"):
        crown(tmp_path, run)
    back = [
        rollback(tmp_path, "m", probe=answers, who="t", why="").version
        for _ in range(2)
    ]
    assert back == [2, 1]
    with pytest.raises(GateError, match="cannot go back"):
        rollback(tmp_path, "m", probe=answers, who="t", why="")


def test_rollback_takes_a_named_former_champion(tmp_path):
    for run in ("r1", "r2", "r3"):
        crown(tmp_path, run)
    never = add(tmp_path, "r4")
    for version in (never, 3, 9):
        with pytest.raises(GateError, match="former champions are 1, 2"):
            rollback(tmp_path, "m", probe=answers, who="t", why="", version=version)
    rollback(tmp_path, "m", probe=answers, who="t", why="", version=1)
    assert pointer(tmp_path) == "1\n"


def test_rollback_passes_over_retired_versions(tmp_path):
    for run in ("r1", "r2", "r3"):
        crown(tmp_path, run)
    registry.retire(tmp_path, "m", version=2, who="t", why="leaks")
    assert rollback(tmp_path, "m", probe=answers, who="t", why="").version == 1
    with pytest.raises(GateError, match="is the champion"):
        registry.retire(tmp_path, "m", version=1, who="t", why="")


def test_a_version_that_does_not_answer_is_not_put_back(tmp_path):
    crown(tmp_path, "r1")
    crown(tmp_path, "r2")

    def silent(ref: ModelRef) -> None:
        raise RuntimeError(f"cannot load {ref.version}")

    with pytest.raises(GateError, match="cannot load 1"):
        rollback(tmp_path, "m", probe=silent, who="t", why="")
    assert pointer(tmp_path) == "2\n"


def test_a_promotion_during_the_probe_stops_the_rollback(tmp_path):
    crown(tmp_path, "r1")
    crown(tmp_path, "r2")
    with pytest.raises(GateError, match="became version 3"):
        rollback(tmp_path, "m", probe=lambda _: crown(tmp_path, "r3"), who="t", why="")
    assert pointer(tmp_path) == "3\n"


def test_a_torn_last_line_is_ignored_and_then_cut_off(tmp_path):
    crown(tmp_path, "r1")
    path = tmp_path / "m" / "events.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"event": "prom', b'{"e": 1}\n', b"\0" * 5_000):
        path.write_bytes(whole + torn)
        assert len(history(tmp_path, "m")) == 3
    crown(tmp_path, "r2")
    assert path.read_bytes().startswith(whole + b'{"event": "registered"')
    assert b"\0" not in path.read_bytes()
    assert len(history(tmp_path, "m")) == 6


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    crown(tmp_path, "r1")
    path = tmp_path / "m" / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{}\n" + lines[2])
    with pytest.raises(SchemaError, match="line 2"):
        champion(tmp_path, "m")


@pytest.mark.parametrize("left", ["1\n", "", "junk", None])
def test_a_pointer_left_behind_by_a_crash_follows_the_events(tmp_path, left):
    crown(tmp_path, "r1")
    crown(tmp_path, "r2")
    path = tmp_path / "m" / "champion"
    path.unlink() if left is None else path.write_text(left)
    assert champion(tmp_path, "m").version == 2
    assert pointer(tmp_path) == "2\n"


@pytest.mark.parametrize("kept", [0, 1])
def test_events_lost_to_a_crash_are_made_good(tmp_path, kept):
    add(tmp_path, "r1")
    path = tmp_path / "m" / "events.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    assert registry.versions(tmp_path, "m")[0]["status"] == "blessed"
    assert [e.event for e in history(tmp_path, "m")] == ["registered", "blessed"]
    assert registry.register(tmp_path, "m", build=build, run_id="r1", manifest={}) == (
        ModelRef(name="m", version=1, uri=str(tmp_path / "m" / "1"))
    )


def test_numbers_are_not_used_twice(tmp_path):
    add(tmp_path, "r1")
    add(tmp_path, "r2")
    (tmp_path / "m" / "2").rename(tmp_path / "gone")
    assert add(tmp_path, "r3") == 3


def test_a_champion_without_its_folder_is_an_error(tmp_path):
    crown(tmp_path, "r1")
    (tmp_path / "m" / "1").rename(tmp_path / "gone")
    with pytest.raises(SchemaError, match="folder is gone"):
        champion(tmp_path, "m")


def test_abandoned_builds_are_swept_and_fresh_ones_are_not(tmp_path):
    add(tmp_path, "r1")
    old, fresh = (tmp_path / "m" / f".building-{x}" for x in "ab")
    old.mkdir()
    fresh.mkdir()
    os.utime(old, (0, 0))
    add(tmp_path, "r2")
    assert fresh.exists()
    assert not old.exists()


def test_a_held_lock_is_waited_for_and_then_said(tmp_path):
    with (
        durable.locked(tmp_path),
        pytest.raises(WorkspaceError, match="held by another run"),
        durable.locked(tmp_path, patience=0.05),
    ):
        pass


def test_a_failed_append_leaves_the_events_as_they_were(tmp_path, monkeypatch):
    crown(tmp_path, "r1")
    before = (tmp_path / "m" / "events.jsonl").read_bytes()
    real = os.write
    monkeypatch.setattr(durable.os, "write", lambda f, b: _half(real, f, b))
    with pytest.raises(WorkspaceError, match="No space"):
        registry.waive(tmp_path, "m", version=add_quietly(tmp_path), who="a", why="b")
    assert (tmp_path / "m" / "events.jsonl").read_bytes() == before


def add_quietly(root: Path) -> int:
    """Lay down a version whose registration the next opening must record."""
    folder = root / "m" / "2"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"run_id": "r2", "files": {}}')
    return 2


def _half(write, file, line):
    """Write half of `line`, then find the disk full."""
    write(file, line[: len(line) // 2])
    raise OSError(28, "No space left on device")


ACTS = st.sampled_from(
    ["register", "pass", "fail", "unsure", "promote", "back", "end", "crown", "crown"]
)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(ACTS, st.integers(1, 4)), max_size=14))
def test_any_sequence_keeps_the_champion_blessed_and_the_events_true(acts):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i, (act, version) in enumerate(acts):
            with contextlib.suppress(GateError, UsageError):
                _act(root, act, version, f"r{i}")
            _invariants(root)


def _act(root: Path, act: str, version: int, run_id: str) -> None:
    verdicts = {"pass": Verdict.PASS, "fail": Verdict.FAIL}
    current = champion(root, "m")
    if act == "register":
        registry.register(root, "m", build=build, run_id=run_id, manifest={})
    elif act == "crown":
        crown(root, run_id)
    elif act in ("pass", "fail", "unsure"):
        verdict = verdicts.get(act, Verdict.INCONCLUSIVE)
        found = report(verdict, current.version if current else None)
        judge(root, "m", version=version, report=found, who="t")
    elif act == "promote":
        promote(root, "m", version=version, who="t", why="")
    elif act == "back":
        rollback(root, "m", probe=answers, who="t", why="")
    else:
        registry.retire(root, "m", version=version, who="t", why="")


def _invariants(root: Path) -> None:
    if not (root / "m").exists():
        return
    events = history(root, "m")
    state = replay(events)
    path = root / "m" / "champion"
    shown = int(path.read_text()) if path.exists() else None
    assert shown == state.champion
    blessed = {e.version for e in events if e.event == Action.BLESSED}
    rejected = {e.version for e in events if e.event == Action.REJECTED}
    assert not blessed & rejected
    if shown is not None:
        assert shown in blessed
        assert state.status[shown] == Action.BLESSED
    moves = [(e.before, e.to) for e in events if e.to is not None]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(moves))
    assert [e.version for e in events if e.event == Action.REGISTERED] == list(
        range(1, len(state.status) + 1)
    )


def test_processes_at_once_lose_nothing(tmp_path):
    workers = [start(tmp_path, f"w{i}-{{}}", 6) for i in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    events = [e.event for e in history(tmp_path, "m")]
    runs = {row["run_id"] for row in registry.versions(tmp_path, "m")}
    assert runs == {f"w{w}-{i}" for w in range(3) for i in range(6)}
    assert [events.count(a) for a in ("registered", "blessed", "promoted")] == [18] * 3
    _invariants(tmp_path)


def test_one_run_in_two_processes_makes_one_version(tmp_path):
    workers = [start(tmp_path, "same", 1) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert len(registry.versions(tmp_path, "m")) == 1
    assert len(history(tmp_path, "m")) == 2


def test_a_kill_at_any_moment_leaves_a_registry_that_goes_on(tmp_path):
    rng = random.Random(5)
    events = tmp_path / "m" / "events.jsonl"
    for attempt in range(4):
        before = events.stat().st_size if events.exists() else 0
        worker = start(tmp_path, f"k{attempt}-{{}}", 10_000)
        while not events.exists() or events.stat().st_size == before:
            assert worker.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        worker.kill()
        worker.wait()
        champion(tmp_path, "m")
        _invariants(tmp_path)
    last = crown(tmp_path, "end")
    assert champion(tmp_path, "m").version == last
