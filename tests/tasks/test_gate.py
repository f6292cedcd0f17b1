"""The gate passes equals, stops what is worse, and says when it cannot tell."""

import numpy as np
import pytest

from data_contracts.references import CheckResult, Verdict
from tasks.arena import Arena
from tasks.gate import GateSettings, against, decide, overall

QUICK = GateSettings(draws=200)


def soft(logits):
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def rivals(n, *, k=5, seed=0, worse=0.0, better=0.0):
    """Return labels and the probs of two models that are equal but for noise.

    Args:
        n: Images.
        k: Classes.
        seed: Seed.
        worse: Share of images that the candidate gets wrong on top.
        better: Share of images that it gets right on top.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    shared = rng.normal(size=(n, k))
    shared[np.arange(n), labels] += 2.6
    logits = [2 * (shared + 0.3 * rng.normal(size=(n, k))) for _ in range(2)]
    luck = rng.random(n)
    for share, target in ((worse, (labels + 1) % k), (better, labels)):
        rows = np.flatnonzero(luck < share)
        logits[0][rows, target[rows]] = logits[0][rows].max(axis=1) + 2
    return labels, soft(logits[0]), soft(logits[1])


def run(*arenas, settings=QUICK, champion=1):
    return decide(arenas, settings, name="m", champion=champion)


def check(report, name):
    return next(c for c in report.checks if c.check == name)


def test_no_check_is_not_a_pass():
    assert decide([], name="m").verdict == Verdict.NOT_RUN
    empty = Arena("test", np.full(3, -1), np.full((3, 2), 0.5))
    report = run(empty, champion=None)
    assert report.verdict == Verdict.NOT_RUN
    assert not report.blessed


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([Verdict.PASS, Verdict.PASS], Verdict.PASS),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE),
        ([Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS], Verdict.FAIL),
        ([Verdict.ERROR, Verdict.PASS], Verdict.FAIL),
        ([Verdict.NOT_RUN, Verdict.PASS], Verdict.INCONCLUSIVE),
        ([Verdict.NOT_RUN, Verdict.NOT_RUN], Verdict.NOT_RUN),
    ],
)
def test_the_worst_blocking_check_decides(verdicts, expected):
    checks = [CheckResult(check="c", verdict=v) for v in verdicts]
    aside = CheckResult(check="aside", verdict=Verdict.FAIL, blocking=False)
    assert overall([*checks, aside]) == expected


def test_an_interval_decides_only_when_it_clears_the_limit():
    assert against(-0.009, 0.02, limit=-0.01) == Verdict.PASS
    assert against(-0.011, 0.02, limit=-0.01) == Verdict.INCONCLUSIVE
    assert against(-0.05, -0.011, limit=-0.01) == Verdict.FAIL
    assert against(-0.01, -0.01, limit=-0.01) == Verdict.INCONCLUSIVE


def test_a_first_version_must_beat_guessing():
    labels, good, _ = rivals(300)
    assert run(Arena("test", labels, good), champion=None).verdict == Verdict.PASS
    rng = np.random.default_rng(0)
    chance = soft(rng.normal(size=good.shape))
    assert run(Arena("test", labels, chance), champion=None).verdict != Verdict.PASS
    rare = np.where(np.arange(300) < 270, 0, labels)
    always = np.eye(5)[np.zeros(300, int)]
    report = run(Arena("test", rare, always), champion=None)
    assert check(report, "test: top-1 floor").limit == pytest.approx((rare == 0).mean())
    assert report.verdict == Verdict.INCONCLUSIVE


def test_a_floor_in_numbers_replaces_guessing():
    labels, good, _ = rivals(400)
    for floor, verdict in ((0.5, Verdict.PASS), (0.99, Verdict.FAIL)):
        settings = GateSettings(draws=200, floor_top1=floor)
        report = run(Arena("test", labels, good), settings=settings, champion=None)
        assert report.verdict == verdict


def test_one_class_alone_cannot_show_that_a_model_beats_guessing():
    report = run(
        Arena("t", np.zeros(100), np.eye(2)[np.zeros(100, int)]), champion=None
    )
    assert report.verdict == Verdict.INCONCLUSIVE


def test_few_images_never_pass():
    labels, good, _ = rivals(20)
    report = run(Arena("test", labels, good), champion=None)
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "20 of at least 30" in check(report, "test: top-1 floor").detail


def test_the_same_model_again_passes():
    labels, _, champion = rivals(1_000)
    report = run(Arena("test", labels, champion, champion))
    assert report.verdict == Verdict.PASS
    assert check(report, "test: top-1").low < 0 < check(report, "test: top-1").high
    assert report.flips == {}


def test_a_worse_model_fails_with_numbers():
    labels, candidate, champion = rivals(2_000, worse=0.06)
    report = run(Arena("test", labels, candidate, champion))
    assert report.verdict == Verdict.FAIL
    detail = check(report, "test: top-1").detail
    assert detail.startswith("Top-1 changed by -")
    assert "may not fall below -1.0" in detail
    assert check(report, "test: macro-F1").verdict == Verdict.FAIL


def test_a_better_model_passes_on_few_images():
    labels, candidate, champion = rivals(300, better=0.3)
    assert run(Arena("test", labels, candidate, champion)).verdict == Verdict.PASS


def test_equals_on_few_images_cannot_be_told_and_the_number_needed_is_said():
    labels, candidate, champion = rivals(150, seed=3)
    report = run(Arena("test", labels, candidate, champion))
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "such images would be needed" in check(report, "test: top-1").detail


def test_a_model_that_only_grows_too_sure_fails_on_brier():
    labels, _, champion = rivals(3_000)
    sure = soft(30 * np.log(champion))
    report = run(Arena("test", labels, sure, champion))
    assert check(report, "test: top-1").verdict == Verdict.PASS
    assert check(report, "test: Brier").verdict == Verdict.FAIL


def test_losing_a_rare_class_shows_in_macro_f1_alone():
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(4_000) < 24, 4, rng.integers(0, 4, 4_000))
    champion = np.eye(5)[labels] * 0.9 + 0.02
    candidate = champion.copy()
    candidate[:24] = champion[:24][:, [4, 1, 2, 3, 0]]
    report = run(Arena("test", labels, candidate, champion))
    assert check(report, "test: top-1").verdict == Verdict.PASS
    assert check(report, "test: macro-F1").verdict == Verdict.FAIL


def test_nan_probs_fail():
    labels, candidate, champion = rivals(300)
    candidate[7] = np.nan
    report = run(Arena("test", labels, candidate, champion))
    assert report.verdict == Verdict.FAIL
    assert "299 of 300" in report.checks[0].detail


def test_a_champion_that_was_not_compared_with_blocks():
    labels, candidate, _ = rivals(500)
    report = run(Arena("test", labels, candidate), champion=4)
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "Version 4 is the champion" in check(report, "champion").detail


def test_a_new_class_counts_against_the_champion_that_lacks_it():
    labels, candidate, champion = rivals(1_000)
    new = Arena("new", labels, candidate, champion[:, :4] + champion[:, 4:] / 4)
    counts = run(new).evidence["arenas"]["new"]
    assert counts["unknown_to_champion"] == (labels == 4).sum()
    assert counts["fixed"] > 0.8 * (labels == 4).sum()
    old = Arena("old", labels, candidate, new.champion, known_only=True)
    counts = run(old).evidence["arenas"]["old"]
    assert counts["excluded"] == (labels == 4).sum()


def test_a_candidate_that_dropped_a_class_is_wrong_on_it():
    labels, candidate, champion = rivals(1_000)
    fewer = candidate[:, :4] + candidate[:, 4:] / 4
    report = run(Arena("test", labels, fewer, champion))
    assert report.verdict == Verdict.FAIL
    assert report.evidence["arenas"]["test"]["images"] == 1_000


def test_labels_nobody_trained_are_left_out_and_counted():
    labels, candidate, champion = rivals(600)
    labels[:50], labels[50:80] = -1, 9
    report = run(Arena("test", labels, candidate, champion))
    assert report.evidence["arenas"]["test"]["excluded"] == 80


def test_forgetting_blocks_an_update_that_gains_on_new_images():
    old = Arena("old", *rivals(2_000, worse=0.06))
    new = Arena("new", *rivals(400, better=0.3, seed=1))
    report = run(old, new)
    assert check(report, "new: top-1").verdict == Verdict.PASS
    assert report.verdict == Verdict.FAIL


def test_a_small_further_arena_blocks_only_when_it_fails():
    old = Arena("old", *rivals(4_000, better=0.05))
    small = Arena("new", *rivals(100, seed=3))
    report = run(old, small)
    assert check(report, "new: top-1").verdict == Verdict.INCONCLUSIVE
    assert report.verdict == Verdict.PASS
    ruined = Arena("new", *rivals(100, seed=3, worse=0.5))
    assert run(old, ruined).verdict == Verdict.FAIL


def test_flips_name_the_images_and_are_capped():
    labels, candidate, champion = rivals(2_000, worse=0.1)
    paths = [f"images/{i}.jpg" for i in range(2_000)]
    settings = GateSettings(draws=200, max_flips=20)
    report = run(
        Arena("test", labels, candidate, champion, paths=paths), settings=settings
    )
    broken = (candidate.argmax(1) != labels) & (champion.argmax(1) == labels)
    assert len(report.flips["broken"]) == 20
    assert set(report.flips["broken"]) <= {paths[i] for i in np.flatnonzero(broken)}
    assert report.evidence["arenas"]["test"]["broken"] == broken.sum()


def test_copies_of_an_image_do_not_make_the_gate_surer():
    labels, candidate, champion = rivals(150, seed=3)
    many = [np.repeat(x, 30, axis=0) for x in (labels, candidate, champion)]
    alone = run(Arena("test", labels, candidate, champion))
    grouped = run(Arena("test", *many, groups=np.repeat(np.arange(150), 30)))
    fooled = run(Arena("test", *many))
    for name in ("test: top-1", "test: macro-F1", "test: Brier"):
        low = [check(r, name).low for r in (alone, grouped, fooled)]
        assert low[1] == pytest.approx(low[0], abs=0.004)
        assert low[2] > low[0] + 0.002
    assert grouped.verdict == Verdict.INCONCLUSIVE


def test_a_decision_repeats():
    arena = Arena("test", *rivals(500))
    assert run(arena) == run(arena)


@pytest.mark.parametrize("n", [500, 3_000])
def test_equals_are_hardly_ever_failed(n):
    """A/A: a gate on point values would block every other one."""
    verdicts, lower = [], 0
    for seed in range(40):
        labels, candidate, champion = rivals(n, seed=seed)
        verdicts.append(run(Arena("test", labels, candidate, champion)).verdict)
        right = [(p.argmax(1) == labels).mean() for p in (candidate, champion)]
        lower += right[0] < right[1]
    assert verdicts.count(Verdict.FAIL) <= 1
    assert 10 <= lower <= 30
    if n == 3_000:
        assert verdicts.count(Verdict.PASS) >= 24


def test_a_loss_beyond_the_margin_is_hardly_ever_passed():
    """Power: at the margin itself five in a hundred may slip through, here fewer."""
    verdicts = [
        run(Arena("test", *rivals(3_000, seed=seed, worse=0.03))).verdict
        for seed in range(40)
    ]
    assert verdicts.count(Verdict.PASS) <= 1
    assert verdicts.count(Verdict.FAIL) >= 20
