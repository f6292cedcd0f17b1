"""`sightline contracts` from outside."""

import json

import numpy as np
import pytest

from flows.cli import main
from tasks.accept import find_reference
from tasks.validate import validate_drift
from tests.datasets import make_dataset, make_era, rewrite


@pytest.fixture
def checked(tmp_path):
    """A dataset whose second era was held against its first."""
    rng = np.random.default_rng(0)
    first = make_dataset(tmp_path, 400, size=8, mean=rng.uniform(9, 90, 400))
    validate_drift(make_era(first, 40), tolerated=True)
    return first


def test_history_lists_checks_and_the_figures_of_a_rule(checked, capfd):
    asked = ["contracts", "history", f"uri={checked.uri}"]
    assert main(asked) == 0
    assert "drift     1.0.0    pass" in capfd.readouterr().out
    assert main([*asked, "rule=brightness is as usual", "--json"]) == 0
    (check,) = json.loads(capfd.readouterr().out)["checks"]
    assert check["value"] < check["limit"]
    assert main([*asked, "rule=brightnes is as usual"]) == 2
    assert "Did you mean `brightness is as usual`" in capfd.readouterr().err
    assert main([*asked, "contract=drifts"]) == 2
    assert "Did you mean `drift`" in capfd.readouterr().err


def test_a_draft_is_of_the_last_split_unless_told_otherwise(checked):
    assert find_reference(checked.uri, None).stage == "ingest"
    split = rewrite(checked, "split", use=np.zeros(400, np.int8))
    rewrite(split, "audit", suspicion=np.zeros(400))
    assert find_reference(checked.uri, None) == split
    assert find_reference(checked.uri, "audit").stage == "audit"


def test_a_draft_is_suggested_tried_and_accepted(checked, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["contracts", "suggest", f"uri={checked.uri}"]) == 0
    assert "accept file=set-ingest.draft.yaml owner=NAME" in capfd.readouterr().out
    tried = ["contracts", "check", f"uri={checked.uri}"]
    assert main([*tried, "file=set-ingest.draft.yaml"]) == 0
    assert main(["contracts", "accept", "file=set-ingest.draft.yaml", "owner=Ann"]) == 0
    text = (tmp_path / "set-ingest.yaml").read_text()
    assert 'owner: "Ann"' in text
    strict = tmp_path / "strict.yaml"
    strict.write_text(text.replace("tail: [8, 8, 3]", "tail: [9, 9, 3]"))
    assert main([*tried, "file=strict.yaml"]) == 3
    assert "of shape (8 x 8 x 3)" in capfd.readouterr().out
