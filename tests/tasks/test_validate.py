"""A new era is held against the earlier ones."""

import numpy as np
import pytest

from data_contracts.errors import ContractError
from data_contracts.references import Verdict
from tasks.checks import read_history
from tasks.validate import validate_drift
from tests.datasets import make_dataset, make_era

N = 400


@pytest.fixture
def first(tmp_path):
    rng = np.random.default_rng(0)
    return make_dataset(tmp_path, N, size=8, mean=rng.normal(120, 20, N).clip(1))


def era(first, mean):
    return make_era(first, N, mean=mean.astype(np.float32))


def test_the_first_era_is_held_against_nothing(first):
    assert validate_drift(first, tolerated=False) is None


def test_an_era_like_the_others_holds(first):
    mean = np.random.default_rng(1).normal(120, 20, N)
    report = validate_drift(era(first, mean), tolerated=False)
    assert report.verdict == Verdict.PASS
    assert report.n_rows == N
    verdicts = {rule.rule: rule.verdict for rule in report.rules}
    assert verdicts["brightness is as usual"] == Verdict.PASS
    assert verdicts["domains come in their usual shares"] == Verdict.NOT_RUN


def test_a_darker_era_warns_or_stops_as_asked(first):
    darker = era(first, np.random.default_rng(1).normal(100, 20, N))
    report = validate_drift(darker, tolerated=True)
    (broken,) = report.failures
    assert (broken.rule, broken.verdict) == ("brightness is as usual", Verdict.WARN)
    assert broken.value > broken.limit
    with pytest.raises(ContractError, match="brightness is as usual"):
        validate_drift(darker, tolerated=False)
    assert [check.contract for check in read_history(first.uri)] == ["drift"] * 2
