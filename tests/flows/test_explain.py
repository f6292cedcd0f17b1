"""`sightline explain` from end to end, on one small trained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_contracts.errors import SourceError, UsageError
from flows import workspace
from flows.explain import ExplainConfig, run
from tasks.explain_settings import ExplainSettings


def explain(**given):
    settings = given.pop("explain", {})
    return run(
        ExplainConfig(**{"name": "shop"} | given, explain=ExplainSettings(**settings))
    )


def test_the_champions_surest_mistakes_are_explained(trained):
    result = explain(limit=5)
    found = result.found
    folder = Path(result.report).parent
    assert folder.parent == workspace.explanations_root()
    assert folder.name.startswith("shop-1-")
    assert found.images == 5
    assert np.load(folder / "maps.npy").shape == (5, 32, 32)
    assert len(list(folder.glob("*.png"))) == 5
    lines = [json.loads(x) for x in (folder / "explained.jsonl").open()]
    assert all(line["given"] != line["predicted"] for line in lines[: found.mistakes])
    assert all(len(line["neighbours"]) == 4 for line in lines)
    page = Path(result.report).read_text()
    for words in ("Why shop version 1", "Nearest training", "changed the answer"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "")
    assert {"random map deletion", "gradcam insertion"} <= set(found.figures)
    assert result.report in result.text()
    assert result.to_json()["report"] == result.report


def test_a_source_with_boxes_says_which_classes_rest_on_the_background(
    trained, pictures, tmp_path
):
    result = explain(
        name="shop@1",
        data=str(pictures),
        limit=3,
        out=str(tmp_path / "why"),
        explain={"target": "mug", "boxed": 30, "order": "given"},
    )
    assert result.report == str(tmp_path / "why" / "report.html")
    page = Path(result.report).read_text()
    assert "Which classes rest on the background" in page
    assert "what speaks for mug" in page


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"explain": {"target": "mgu"}}, "Did you mean mug?"),
        ({"explain": {"method": "rollout"}}, "Take method=gradcam"),
        ({"explain": {"method": "lime", "samples": 20}}, "raise samples"),
        ({"name": "shop@9"}, "no version 9"),
        ({"name": "shop@new"}, "a version follows @"),
        ({"data": "{empty}"}, "no images"),
    ],
)
def test_what_cannot_be_explained_is_said_before_any_work(
    trained, tmp_path, given, said
):
    (tmp_path / "empty").mkdir()
    given = {
        key: value.format(empty=tmp_path / "empty") if key == "data" else value
        for key, value in given.items()
    }
    with pytest.raises((UsageError, SourceError)) as error:
        explain(**given)
    assert said.lower() in str(error.value).lower()


def test_the_gallery_of_the_training_report_carries_maps(trained):
    with open(trained.report) as page:
        assert "what spoke for" in page.read()
