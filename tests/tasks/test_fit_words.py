"""What is said of a training's fit, and what more images would bring."""

import numpy as np
import pytest

from tasks.fit_words import FitVerdict, gap_of, judge_fit, rise_of, share_of
from tasks.learning_curve import error_at, fit_power, gain_of_more, nested_shares
from tasks.summary_fit import missed_by_heads

EPOCHS = 60


def history(curve, *, n=300, noise=0.0, seed=0):
    scatter = np.random.default_rng(seed).normal(0, noise, EPOCHS)
    return [
        {"epoch": e + 1, "val_top1": float(curve(e / EPOCHS) + scatter[e])}
        | {"val_images": n}
        for e in range(EPOCHS)
    ]


def wandering(alike, seed):
    """A level curve whose neighbouring epochs go together."""
    random = np.random.default_rng(seed)
    noise, scatter = [random.normal()], (1 - alike**2) ** 0.5
    for _ in range(EPOCHS - 1):
        noise.append(alike * noise[-1] + scatter * random.normal())
    steps = iter(noise)
    return history(lambda share: 0.7 + 0.018 * next(steps))


def flat(share):
    return 0.7 * min(1.0, 3 * share)


def climbing(share):
    return 0.2 + 0.5 * share


def verdict(train, val, curve=flat, *, n=300, noise=0.01):
    found = judge_fit(
        history(curve, n=n, noise=noise),
        train=share_of(train, 1_000),
        val=share_of(val, n),
    )
    return found.verdict


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (0.99, 0.70, FitVerdict.overfits),
        (0.60, 0.58, FitVerdict.underfits),
        (0.97, 0.94, FitVerdict.fine),
        (0.60, 0.62, FitVerdict.underfits),
    ],
)
def test_a_gap_and_what_was_learnt_decide(train, val, said):
    assert verdict(train, val) == said


def test_a_curve_that_climbs_asks_for_more_epochs_but_hides_no_gap():
    found = judge_fit(
        history(climbing), train=share_of(0.99, 1_000), val=share_of(0.7, 300)
    )
    assert found.verdict == FitVerdict.overfits
    assert "more epochs (train.epochs) may bring more" in found.sentences[1]
    assert verdict(0.60, 0.6, climbing) == FitVerdict.rising


def test_few_validation_images_say_so():
    assert verdict(0.99, 0.70, n=49) == FitVerdict.unknown
    assert verdict(0.95, 0.86, n=80) == FitVerdict.unknown  # up to 18 points
    assert verdict(0.99, 0.40, n=60) == FitVerdict.overfits  # a gap no noise explains
    none = judge_fit(history(flat), train=None, val=None)
    assert none.verdict == FitVerdict.unknown
    assert "0 validation images are too few" in none.sentences[0]


def test_noise_alone_rarely_rises():
    level = [history(lambda share: 0.7, noise=0.02, seed=seed) for seed in range(300)]
    assert np.mean([rise_of(lines)[2] for lines in level]) < 0.03
    for alike, most in ((0.5, 0.06), (0.8, 0.06), (0.95, 0.09)):
        found = [rise_of(wandering(alike, seed))[2] for seed in range(300)]
        assert np.mean(found) < most, alike
    slow = history(lambda share: 0.70 + 0.012 * share, noise=0.0)
    assert not rise_of(slow)[2]  # 0.4 points over the last third: two images of 300


def test_the_sentences_name_the_figures():
    more = share_of(0.02, 300)
    train, val = share_of(0.99, 900), share_of(0.70, 300)
    said = judge_fit(history(flat), train=train, val=val, more=more)
    text = " ".join(said.sentences)
    assert "It overfits" in text
    assert "99.0 %" in text
    assert "a gap of 29.0 points (" in text
    assert "about +2.0 points" in text
    assert said.gap == gap_of(train, val)


def test_the_gap_of_two_samples_has_newcombes_interval():
    """Newcombe (1998), table II, case a: 56 of 70 and 48 of 80."""
    gap = gap_of(share_of(56 / 70, 70), share_of(48 / 80, 80))
    assert (gap.low, gap.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_a_power_law_is_found_where_it_holds(floor, exponent):
    sizes = np.array([125, 250, 500, 1000])
    errors = floor + 0.1 * (sizes / 1000) ** -exponent
    fit = fit_power(sizes, errors[None])
    truth = floor + 0.1 * 2**-exponent
    assert error_at(fit, 2.0)[0] == pytest.approx(truth, abs=0.002)
    np.testing.assert_allclose(error_at(fit, 1.0), errors[-1], atol=0.002)


def test_errors_that_do_not_fall_promise_nothing():
    sizes = np.array([125, 250, 500, 1000])
    fit = fit_power(sizes, np.array([[0.4, 0.4, 0.4, 0.4], [0.3, 0.35, 0.4, 0.42]]))
    gain = error_at(fit, 1.0) - error_at(fit, 2.0)
    np.testing.assert_allclose(gain, 0, atol=1e-9)
    assert all(part.min() >= 0 for part in fit)


def test_the_interval_of_the_gain_holds_the_truth():
    """Images missed at random with known chances; most intervals hold the gain."""
    sizes = np.array([125, 250, 500, 1000])
    chance = 0.1 + 0.2 * (sizes / 1000) ** -0.5
    truth = 0.2 * (1 - 2**-0.5)
    held, n = 0, 400
    for seed in range(40):
        luck = np.random.default_rng(seed).random((1, 2, n))
        missed = (luck < chance[:, None, None]).astype(float)
        gain = gain_of_more(
            sizes, missed, groups=np.arange(n), times=2, level=0.95, seed=seed
        )
        held += gain.low <= truth <= gain.high
    assert held >= 36


def test_shares_are_nested_stratified_and_keep_duplicates_together():
    labels = np.repeat([0, 1, 2], [40, 20, 4])
    groups = np.arange(64) // 2
    taken = nested_shares(labels, groups, shares=(0.125, 0.5, 1.0), seed=0)
    assert (taken[1:] >= taken[:-1]).all()
    assert taken[2].all()
    counts = [np.bincount(labels[row], minlength=3).tolist() for row in taken]
    assert counts[:2] == [[6, 4, 2], [20, 10, 2]]
    assert (taken[:, ::2] == taken[:, 1::2]).all()
    assert (nested_shares(labels, groups, shares=[0.5], seed=1) != taken[1]).any()


def test_heads_on_more_images_miss_less():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    x = rng.normal(size=(400, 24)).astype(np.float32)
    x[:, :3] += 1.5 * np.eye(3)[labels]
    missed, sizes = missed_by_heads(x, labels, n=240, groups=np.arange(240), seed=0)
    assert missed.shape == (4, 3, 160)
    np.testing.assert_allclose(sizes, [30, 60, 120, 240], atol=3)
    error = missed.mean((1, 2))
    assert error[0] > error[-1] + 0.03
    assert (missed[-1] == missed[-1][:1]).all()  # all images: every draw is the same
