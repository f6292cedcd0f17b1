"""Successive halving: who goes up, what it costs, and when it ends."""

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from tasks.halving import (
    Plan,
    epochs_of,
    final_epochs,
    finalists,
    next_step,
    plan_within,
    rungs_of,
)

plans = st.builds(
    lambda trials, epochs, eta, most, finalists, seeds: Plan(
        trials, rungs_of(epochs, eta=eta, most=most), eta, finalists, seeds
    ),
    trials=st.integers(2, 30),
    epochs=st.integers(1, 120),
    eta=st.integers(2, 5),
    most=st.integers(1, 4),
    finalists=st.integers(1, 4),
    seeds=st.integers(2, 4),
)


def play(plan, score, *, most=10_000):
    """Train until nothing is left; `score` gives what a step comes to."""
    done = {}
    while (step := next_step(plan, done)) is not None and len(done) < most:
        assert step not in done
        done[step] = score(step)
    return done


def test_rungs_rise_by_eta_up_to_the_whole_training():
    assert rungs_of(110, eta=3, most=3) == (12, 37, 110)
    assert rungs_of(6, eta=3, most=3) == (2, 6)
    assert rungs_of(1, eta=3, most=3) == (1,)


def test_one_in_eta_goes_up_and_the_finalists_at_least():
    assert Plan(13, (12, 37, 110), 3, 2, 3).widths == [12, 4, 2]
    assert Plan(3, (12, 37, 110), 3, 2, 3).widths == [2, 2, 2]


@given(plans, st.randoms(use_true_random=False))
def test_the_best_go_up_beside_the_defaults_and_every_epoch_is_counted(plan, random):
    scores = {trial: random.random() for trial in range(plan.trials)}
    done = play(plan, lambda step: scores[step.trial])
    assert sum(step.epochs for step in done) == epochs_of(plan)
    best = sorted(range(1, plan.trials), key=lambda trial: scores[trial])
    for width, epochs in zip(plan.widths, plan.rungs, strict=True):
        ran = {step.trial for step in done if step.epochs == epochs and not step.seed}
        assert ran == {0, *best[:width]}
    assert finalists(plan, done) == best[: plan.finalists]
    judged = [step for step in done if step.seed]
    assert sum(step.epochs for step in judged) == final_epochs(plan)
    assert {step.trial for step in judged} == {0, *best[: plan.finalists]}


@given(plans, st.randoms(use_true_random=False), st.integers(0, 60))
def test_what_is_done_is_never_done_again_and_the_order_does_not_matter(
    plan, random, stop
):
    def score(step):
        return (step.trial * 7919 + step.epochs) % 101 / 101

    whole = play(plan, score)
    half = dict([*whole.items()][:stop])
    again = [*half.items()]
    random.shuffle(again)
    done = dict(again)
    while (step := next_step(plan, done)) is not None:
        assert step not in half
        done[step] = score(step)
    assert done == whole


@given(plans, st.integers(1, 40))
def test_out_of_time_those_that_lead_are_judged_at_once(plan, spent):
    done = play(plan, lambda step: step.trial / 100, most=spent)
    searched = {step for step in done if not step.seed}
    while (step := next_step(plan, done, hurry=True)) is not None:
        assert step.seed
        done[step] = 0.0
    assert {step for step in done if not step.seed} == searched
    assert len([s for s in done if s.seed]) % plan.seeds == 0


def test_failed_trials_neither_go_up_nor_are_judged():
    plan = Plan(5, (2, 6), 3, 2, 2)
    done = play(plan, lambda s: math.inf if s.trial in (1, 2) else 1 / (1 + s.trial))
    assert finalists(plan, done) == [4, 3]

    def late(step):
        return math.inf if step.epochs == 6 and step.trial and not step.seed else 1.0

    done = play(plan, late)
    assert finalists(plan, done) == [3, 4]  # they failed nowhere
    assert {step.trial for step in done if step.seed} == {0, 3, 4}


def test_where_every_trial_fails_nothing_is_judged():
    plan = Plan(3, (2, 6), 3, 2, 2)
    done = play(plan, lambda step: math.inf if step.trial else 1.0)
    assert not any(step.seed for step in done)


@given(plans, st.floats(1, 5_000))
def test_a_plan_within_a_time_is_the_largest_that_fits(plan, seconds):
    found = plan_within(plan, seconds=seconds, of_epoch=1.0)
    if found is None:
        fewest = dataclasses.replace(plan, trials=2)
        assert epochs_of(fewest) > seconds
        return
    assert epochs_of(found) <= seconds
    more = dataclasses.replace(found, trials=found.trials + 1)
    assert found.trials == plan.trials or epochs_of(more) > seconds
