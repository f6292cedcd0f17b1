"""Checks of one's own: what each one passes, fails, and cannot tell."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.config import digest
from data_contracts.errors import UsageError
from data_contracts.references import Verdict
from tasks.arena import Arena, Rights, read_rights, write_rights
from tasks.gate import Exhibits, decide
from tasks.gate_machine import compared_times
from tasks.gate_settings import (
    GateSettings,
    Latency,
    check_plan,
    identity_of,
    planned,
)
from tasks.inference import devices
from tasks.record import OFTEN, count_use, uses, wear
from tests.tasks.test_gate import rivals

PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def gate(*checks, **fields):
    return GateSettings(draws=200, checks=checks, **fields)


def judged(arena, *checks, champion=1, exhibits=None, **fields):
    """Return the report of a gate that makes these checks alone."""
    settings = gate(*checks, usual_checks=False, **fields)
    return decide([arena], settings, name="m", champion=champion, exhibits=exhibits)


def verdict(arena, check, **kinds):
    return judged(arena, check, **kinds).verdict


def arena(n=2_000, **changes):
    labels, candidate, champion = rivals(n, **changes)
    return Arena("test", labels, candidate, champion)


def names(report):
    return [check.check for check in report.checks]


def test_the_usual_checks_come_without_asking_and_give_way_to_ones_own():
    usual = ["floor", "non_inferior", "non_inferior", "non_inferior", "slices"]
    assert [check.check for check in planned(GateSettings())] == usual
    wider = gate({"check": "non_inferior", "metric": "brier", "margin": 0.1})
    margins = {c.metric: c.margin for c in planned(wider) if c.check == "non_inferior"}
    assert margins == {"top1": 0.01, "macro_f1": 0.02, "brier": 0.1}
    alone = planned(gate({"check": "superior"}, usual_checks=False))
    assert [check.check for check in alone] == ["superior"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"usual_checks": False}, "leaves nothing to check"),
        ({"checks": ({"check": "size"}, {"check": "size"})}, "given twice"),
        ({"checks": ({"check": "floor", "metric": "nll"},)}, "needs a limit"),
        ({"checks": ({"check": "luck"},)}, "luck"),
        ({"checks": ({"check": "floor", "limit": 1},)}, "must be under 1"),
        ({"level": 0.9995, "checks": ({"check": "latency", "rounds": 10},)}, "rounds"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        GateSettings(**fields)


def test_a_check_that_lacks_what_it_needs_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="robustness=yes"):
        check_plan(gate({"check": "corruptions"}), robustness=False)
    check_plan(gate({"check": "corruptions"}), robustness=True)
    sliced_by = {"check": "slices", "by": ["domain", "wether"]}
    with pytest.raises(UsageError, match=r"slices by wether: .* by domain, coarse"):
        check_plan(gate(sliced_by), robustness=False)
    missing = {"check": "must_stay_right", "file": str(tmp_path / "none.txt")}
    with pytest.raises(UsageError, match="cannot be read"):
        check_plan(gate(missing), robustness=False)


def test_new_settings_left_alone_rename_no_version():
    fields = GateSettings().model_dump(mode="json")
    for later in ("margin_slices", "usual_checks", "checks", "ask"):
        del fields[later]
    assert digest(identity_of(GateSettings())) == digest(fields)
    assert identity_of(GateSettings(ask=True)) == fields
    assert identity_of(gate({"check": "size"})) != identity_of(gate())


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"better": 0.05}, PASS), ({}, OPEN), ({"worse": 0.05}, FAIL)],
)
def test_superior_asks_for_a_sure_gain(change, expected):
    assert verdict(arena(**change), {"check": "superior"}) == expected


def test_superior_counts_groups_and_not_copies():
    labels, candidate, champion = rivals(60, better=0.04)
    parts = [np.repeat(x, 40, axis=0) for x in (labels, candidate, champion)]
    copied = Arena("test", *parts, groups=np.repeat(np.arange(60), 40))
    assert verdict(copied, {"check": "superior"}) == OPEN


def sliced(lost, n=1_500, of=3):
    """Return an arena whose candidate loses `lost` of one slice."""
    labels, candidate, champion = rivals(n)
    where = np.arange(n) % of
    rows = np.flatnonzero((where == 0) & (np.random.default_rng(0).random(n) < lost))
    candidate[rows] = np.eye(5)[(labels[rows] + 1) % 5]
    names = np.array(["street", "studio", "night"], object)[where]
    return Arena("test", labels, candidate, champion, slices={"domain": names})


def test_a_slice_that_fails_is_named_and_blocks_the_usual_gate():
    report = decide([sliced(0.2)], gate(margin=0.3), name="m", champion=1)
    (row,) = [check for check in report.checks if check.check == "test: slices"]
    assert (row.verdict, row.blocking) == (FAIL, True)
    assert "Surely below: domain street" in row.detail
    assert report.verdict == FAIL


def test_slices_that_are_not_sure_stop_only_who_asks_for_it():
    report = decide([sliced(0.05)], gate(margin=0.3), name="m", champion=1)
    (row,) = [check for check in report.checks if check.check == "test: slices"]
    assert (row.verdict, row.blocking) == (OPEN, False)
    assert verdict(sliced(0.05), {"check": "slices"}) == OPEN
    assert verdict(sliced(0), {"check": "slices", "margin": 0.1}) == PASS
    few = {"check": "slices", "min_images": 900}
    assert judged(sliced(0), few).checks[-1].verdict == Verdict.NOT_RUN
    (*_, said) = judged(sliced(0), {"check": "slices", "by": ["weather"]}).checks
    assert said.detail == "These images are not sliced by weather, but by domain."
    (*_, said) = judged(sliced(0), {"check": "slices", "by": ["domain", "era"]}).checks
    assert said.detail.endswith("These images are not sliced by era.")


def test_slices_of_equal_models_hardly_ever_fail():
    fails = 0
    for seed in range(60):
        labels, candidate, champion = rivals(1_200, seed=seed)
        slices = {"tenth": (np.arange(1_200) % 4).astype(str)}
        two = Arena("test", labels, candidate, champion, slices=slices)
        fails += verdict(two, {"check": "slices", "margin": 1e-6}) == FAIL
    assert fails <= 7  # 5 % of 60, with room for luck


def test_negative_flips_have_a_limit_and_say_what_luck_would_make():
    check = {"check": "negative_flips", "limit": 0.1}
    assert verdict(arena(), check) == PASS
    assert verdict(arena(worse=0.2), check) == FAIL
    assert "independent" in judged(arena(), check).checks[-1].detail


def test_pinned_images_must_be_there_and_right(tmp_path):
    labels = np.array([0, 1] * 20)
    probs = np.eye(2)[labels] * 0.8 + 0.1
    probs[3] = probs[3, ::-1]
    digests = [f"{i:064d}" for i in range(40)]
    paths = [f"{i}.png" for i in range(40)]
    one = Arena("test", labels, probs, paths=paths, digests=digests)
    file = tmp_path / "pinned.txt"
    check = {"check": "must_stay_right", "file": str(file)}

    def pinned(*lines):
        file.write_text("# ours\n" + "\n".join(lines) + "\n")
        return judged(one, check, champion=None)

    assert pinned("0.png", f"{7:064d} # seven").verdict == PASS
    assert pinned("0.png", "elsewhere.png").verdict == OPEN
    report = pinned("0.png", "3.png")
    assert report.verdict == FAIL
    assert "Wrong: 3.png" in report.checks[-1].detail
    digests[8] = digests[3]  # the same file again, under a label that is met
    assert pinned(digests[3]).verdict == FAIL


def test_calibration_fails_what_boasts_and_not_luck():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(2_000, 4))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((2_000, 1)) > probs.cumsum(1)).sum(1).clip(max=3)
    boast = probs**4 / (probs**4).sum(1, keepdims=True)
    for who, expected in ((probs, PASS), (boast, FAIL)):
        one = Arena("test", labels, who)
        assert verdict(one, {"check": "calibration"}, champion=None) == expected


@pytest.mark.parametrize("metric", ["macro_recall", "nll"])
def test_any_metric_may_be_compared_or_floored(metric):
    paired = {"check": "non_inferior", "metric": metric, "margin": 0.1}
    assert verdict(arena(), paired) == PASS
    assert verdict(arena(worse=0.3), paired) == FAIL
    limit = {"macro_recall": 0.5, "nll": 1.0}[metric]
    floored = {"check": "floor", "metric": metric, "limit": limit}
    assert verdict(arena(), floored, champion=None) == PASS
    beyond = floored | {"limit": {"macro_recall": 0.99, "nll": 0.01}[metric]}
    assert verdict(arena(), beyond, champion=None) == FAIL


def rights(candidate, champion, n=1_000):
    rng = np.random.default_rng(0)
    own, its = ((rng.random((5, n)) < p).mean(0) for p in (candidate, champion))
    return Rights(own, its, np.arange(n))


def test_spoiled_and_attacked_images_are_compared_or_said_to_be_missing(tmp_path):
    one = arena(50)
    for kind, made in (
        ({"check": "corruptions"}, lambda r: Exhibits(corrupted=r)),
        ({"check": "adversarial"}, lambda r: Exhibits(attacked={"pgd": r})),
    ):
        report = judged(one, kind, exhibits=Exhibits())
        assert report.checks[-1].verdict == Verdict.NOT_RUN
        assert report.verdict == OPEN
        why = Exhibits(spared={"pgd": "It knows one class."})
        said = judged(one, {"check": "adversarial"}, exhibits=why).checks[-1].detail
        assert said == "It knows one class."
        for candidate, expected in ((0.6, PASS), (0.5, FAIL)):
            found = made(rights(candidate, 0.6))
            assert verdict(one, kind, exhibits=found) == expected
    write_rights(tmp_path / "r.npz", rights(0.6, 0.6))
    back = read_rights(tmp_path / "r.npz")
    assert back.candidate.tolist() == rights(0.6, 0.6).candidate.tolist()
    assert read_rights(tmp_path / "none.npz") is None


def test_equal_rights_have_an_interval_too():
    same = Rights(np.ones(10), np.ones(10), np.arange(10))
    found = judged(
        arena(50), {"check": "corruptions"}, exhibits=Exhibits(corrupted=same)
    )
    assert found.checks[-1].verdict == OPEN


@pytest.mark.parametrize(("ratio", "expected"), [(1, PASS), (1.22, OPEN), (1.5, FAIL)])
def test_times_are_judged_by_the_median_of_turns(ratio, expected):
    rng = np.random.default_rng(0)
    base = 0.01 * np.exp(0.1 * rng.normal(size=(30, 2)))
    base[3] *= [50, 1]  # one slow moment decides nothing
    base[:, 0] *= ratio
    found = compared_times(Latency(), base, batch=1, level=0.95)
    assert (found.check, found.verdict) == ("latency: batch 1", expected)


def test_a_model_made_for_one_image_pads_no_further_than_its_devices(predictor):
    shapes, many = [], devices().size
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    usual, one = predictor(images), predictor.for_batch(1)
    compiled = one._predict
    one._predict = lambda *args: shapes.append(len(args[-1])) or compiled(*args)
    assert one(images) == pytest.approx(usual, abs=1e-5)
    assert set(shapes) == {many}
    assert predictor._width >= 256


def test_size_is_a_ratio_of_bytes(tmp_path):
    for name, size in (("one", 1_300), ("two", 1_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"x" * size)
    both = Exhibits(candidate=tmp_path / "one", champion=tmp_path / "two")
    assert verdict(arena(50), {"check": "size"}, exhibits=both) == FAIL
    larger = {"check": "size", "limit": 1.3}
    assert verdict(arena(50), larger, exhibits=both) == PASS
    assert judged(arena(50), {"check": "size"}).checks[-1].verdict == Verdict.NOT_RUN


def test_a_version_that_does_not_load_fails(tmp_path):
    broken = Exhibits(candidate=tmp_path)
    report = judged(arena(50), {"check": "infrastructure"}, exhibits=broken)
    assert report.verdict == FAIL
    assert "does not load in a fresh process" in report.checks[-1].detail


def test_uses_of_a_test_set_add_up_once_each(tmp_path):
    models = tmp_path / "models"
    assert count_use(models, "aa", by="gate", model="m", what="version 1") == 1
    assert count_use(models, "aa", by="gate", model="m", what="version 1") == 1
    path = tmp_path / "test_sets.jsonl"
    path.write_text(path.read_text() + '{"torn')
    assert count_use(models, "aa", by="gate", model="m", what="version 2") == 2
    assert count_use(models, "bb", by="gate", model="m", what="version 2") == 1
    assert [line["what"] for line in uses(models, "aa")] == ["version 1", "version 2"]
    json.loads(path.read_text().splitlines()[-1])
    assert wear(2, 10).verdict == PASS
    assert "Bring new test images" in wear(OFTEN, 10).detail
