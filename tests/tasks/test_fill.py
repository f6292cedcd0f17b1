"""Filling texts, domains, tags and numbers, with figures of training images alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.errors import SourceError, UsageError
from data_contracts.store import Dataset
from flows.train import TrainConfig
from tasks.decode import DecodeSettings
from tasks.embed import EmbedSettings
from tasks.fill import with_numbers
from tasks.impute import impute_dataset
from tasks.impute_settings import ImputeSettings
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.listing import SourceSettings
from tasks.sources import list_source
from tests.tasks.pictures import write
from tests.tasks.test_impute import embedded, imputed, two_heaps

N = 12
SPLIT = np.array([0] * 8 + [2] * 4)


def texts(**at: str) -> np.ndarray:
    out = np.full(N, "", object)
    for row, text in at.items():
        out[int(row[1:])] = text
    return out


def test_texts_take_the_commonest_of_training(tmp_path: Path):
    text = texts(_0="x", _1="y", _2="y", _8="x", _9="x", _10="x")
    embeddings, _ = two_heaps(N)
    found = imputed(embedded(tmp_path, embeddings, text=text, split=SPLIT), text="mode")
    filled = text == ""
    assert (found.column("text")[filled] == "y").all()
    assert np.array_equal(found.column("text")[~filled], text[~filled])
    assert np.array_equal(found.column("text_imputed"), filled)
    assert found.attributes["impute"] == {"text": "y"}


def test_texts_take_that_of_the_nearest_training_image(tmp_path: Path):
    embeddings, heap = two_heaps(N)
    text = texts(_0="even", _1="odd", _8="test")
    source = embedded(tmp_path, embeddings, text=text, split=SPLIT)
    found = imputed(source, text="neighbours").column("text")
    assert found.tolist() == [
        "test" if row == 8 else ("even", "odd")[heap[row]] for row in range(N)
    ]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"domain": "mode"}, "shop"),
        ({"domain": "constant", "domain_value": "lab"}, "lab"),
        ({"domain": "neighbours", "voters": 1}, "shop"),
    ],
)
def test_domains_are_filled(tmp_path: Path, settings: dict, wanted: str):
    domain = np.array([0, 1, 1, 1, 0, 1, -1, -1, 0, 0, 0, -1])
    embeddings = np.ones((N, 2))
    embeddings[[0, 4], 0] = -1
    source = embedded(tmp_path, embeddings, domain=domain, split=SPLIT)
    found = _named(source, domain_names=["studio", "shop"])
    found = imputed(found, **settings)
    names = np.array(found.names("domain_names"), object)
    assert found.names("domain_names")[:2] == ["studio", "shop"]
    assert names[found.column("domain")][domain < 0].tolist() == [wanted] * 3
    assert np.array_equal(found.column("domain_imputed"), domain < 0)


def _named(source, **names):
    """Return `source` with names in its attributes."""
    from tasks.stage import run_stage
    from tests.datasets import NoSettings

    return run_stage(
        "name",
        lambda build: build.writer.annotate(**names),
        uri=source.uri,
        parent=source,
        version=1,
        settings=NoSettings(),
    )


def tagged(tmp_path: Path):
    """Rows 0, 2, 4 carry p (0 also q), 1 carries q; the others carry nothing."""
    embeddings, _ = two_heaps(N)
    source = embedded(
        tmp_path,
        embeddings,
        split=SPLIT,
        tag_ids=np.array([0, 1, 1, 0, 0], np.int32),
        tag_offsets=np.array([0, 2, 3, 4, 4, 5, *[5] * 7]),
    )
    return _named(source, tag_names=["p", "q"])


def tags_of(found: Dataset) -> list[set[str]]:
    ids, offsets = found.column("tag_ids"), found.column("tag_offsets")
    names = found.names("tag_names")
    return [{names[i] for i in ids[a:b]} for a, b in itertools.pairwise(offsets)]


@pytest.mark.parametrize(
    ("settings", "even", "odd"),
    [
        ({"tags": "mode"}, {"p"}, {"p"}),
        ({"tags": "constant", "tags_value": ("q", "new")}, {"q", "new"}, {"q", "new"}),
        ({"tags": "neighbours", "voters": 4}, {"p", "q"}, {"p", "q"}),
        ({"tags": "neighbours", "voters": 1}, {"p"}, {"q"}),
    ],
)
def test_images_without_tags_get_some(tmp_path, settings, even, odd):
    found = imputed(tagged(tmp_path), **settings)
    tags = tags_of(found)
    assert tags[:5] == [{"p", "q"}, {"q"}, {"p"}, odd, {"p"}]
    assert all(even <= found for found in tags[6::2])
    assert tags[5::2] == [odd] * 4
    assert (
        found.column("tags_imputed").tolist()
        == [False] * 3 + [True, False] + [True] * 7
    )


def manifest(root: Path, prices: list[str], *, splits: str = "train") -> Path:
    """Write a manifest whose pictures have a price and a weight."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,split,price,weight"]
    for i, price in enumerate(prices):
        write(root / f"{i}.png", seed=i + len(str(root)))
        split = splits.split()[i % len(splits.split())]
        lines.append(f"{i}.png,{'ab'[i % 2]},{split},{price},{i}")
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def ingested(root: Path, uri: Path, *numeric: str, parent=None):
    settings = IngestSettings(
        source=SourceSettings(numeric=numeric), decode=DecodeSettings(image_size=16)
    )
    return ingest_dataset(str(root), settings, uri=str(uri), parent=parent)


def test_manifests_bring_numbers(tmp_path: Path):
    place = manifest(tmp_path / "in", ["1.5", "", "cheap", "nan", "-2"])
    found = Dataset(ingested(place, tmp_path / "set", "price", "weight"))
    assert found.names("number_names") == ["price", "weight"]
    numbers = found.column("numbers")
    assert numbers[:, 0].tolist()[::4] == [1.5, -2]
    assert np.isnan(numbers[[1, 2, 3], 0]).all()
    assert numbers[[0, 1, 3, 4], 1].tolist() == [0, 1, 3, 4]
    assert found.column("problem").tolist() == ["", "", "bad-annotation", "", ""]
    assert "'cheap'" in found.column("detail")[2]


def test_later_sources_may_lack_numbers_or_bring_more(tmp_path: Path):
    first = ingested(manifest(tmp_path / "a", ["1", "2"]), tmp_path / "set", "price")
    second = ingested(
        manifest(tmp_path / "b", ["3", "4"]), tmp_path / "set", "weight", parent=first
    )
    found = Dataset(second)
    assert found.names("number_names") == ["price", "weight"]
    assert found.column("numbers")[:2, 0].tolist() == [1, 2]
    assert found.column("numbers")[2:, 1].tolist() == [0, 1]
    assert np.isnan(found.column("numbers")).sum() == 4


def test_a_changed_number_is_seen(tmp_path: Path):
    place = manifest(tmp_path / "in", ["1", "2"])
    before = ingested(place, tmp_path / "set", "price")
    manifest(tmp_path / "in", ["1", "7"])
    after = Dataset(ingested(place, tmp_path / "set", "price"))
    assert after.ref != before
    assert after.column("numbers")[-1, 0] == 7


def test_columns_that_are_not_there_are_named(tmp_path: Path):
    place = manifest(tmp_path / "in", ["1"])
    with pytest.raises(SourceError, match=r"no column 'prize'.*'price'"):
        list_source(str(place), settings=SourceSettings(numeric=("prize",)))
    write(tmp_path / "folder" / "a" / "x.png")
    with pytest.raises(SourceError, match="columns of a table"):
        list_source(
            str(tmp_path / "folder"), settings=SourceSettings(numeric=("price",))
        )


NUMBERS = np.array([[2, 4, 9, np.nan, np.nan, 5, 1, np.nan, 99, 99, np.nan, 99]]).T


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"numbers": "mean"}, 4.2),
        ({"numbers": "median"}, 4.0),
        ({"numbers": "constant", "numbers_value": -1.0}, -1.0),
    ],
)
def test_numbers_are_filled_from_training_images(tmp_path, settings, value):
    embeddings, _ = two_heaps(N)
    source = embedded(tmp_path, embeddings, split=SPLIT, numbers=NUMBERS)
    found = imputed(_named(source, number_names=["price"]), **settings)
    gaps = np.isnan(NUMBERS)
    assert found.column("numbers")[gaps] == pytest.approx([value] * 4)
    assert np.array_equal(found.column("numbers")[~gaps], NUMBERS[~gaps])
    assert np.array_equal(found.column("numbers_imputed"), gaps)
    assert found.attributes["impute"]["numbers"] == pytest.approx({"price": value})


def test_an_update_fills_with_the_champions_figures(tmp_path: Path):
    embeddings, _ = two_heaps(N)
    given = {"split": SPLIT, "numbers": NUMBERS}
    first = _named(embedded(tmp_path / "1", embeddings, **given), number_names=["p"])
    given["numbers"] = np.hstack([NUMBERS + 50, NUMBERS])
    later = _named(
        embedded(tmp_path / "2", embeddings, **given), number_names=["p", "q"]
    )
    champion = imputed(first, numbers="mean")
    found = impute_dataset(
        later,
        ImputeSettings(numbers="mean"),
        encoder=EmbedSettings(),
        split=later,
        name="toy",
        runs="",
        champion=None,
        start=champion.ref,
    )
    values = Dataset(found).attributes["impute"]["numbers"]
    assert values == pytest.approx({"p": 4.2, "q": 4.2})


def test_serving_fills_numbers_with_the_stored_figures():
    numbers, gaps = with_numbers(np.array([[np.nan, 1], [2, np.nan]], "f4"), [7, 8])
    assert numbers.tolist() == [[7, 1], [2, 8]]
    assert gaps.tolist() == [[True, False], [False, True]]


def test_what_cannot_be_filled_is_said(tmp_path: Path):
    embeddings, _ = two_heaps(N)
    source = embedded(tmp_path, embeddings, split=SPLIT)
    with pytest.raises(UsageError, match="no training image has text"):
        imputed(source, text="mode")
    with pytest.raises(UsageError, match=r"source.numeric=\[price\]"):
        imputed(source, numbers="mean")
    gone = np.full((N, 1), np.nan)
    lacking = embedded(tmp_path / "2", embeddings, split=SPLIT, numbers=gone)
    with pytest.raises(UsageError, match="a number in column 'price'"):
        imputed(_named(lacking, number_names=["price"]), numbers="median")
    with pytest.raises(ValidationError, match=r"source\.numeric"):
        TrainConfig(data="x", name="x", impute=ImputeSettings(numbers="mean"))


def test_statistics_are_plain_values(tmp_path: Path):
    embeddings, _ = two_heaps(N)
    source = embedded(tmp_path, embeddings, split=SPLIT, numbers=NUMBERS)
    found = imputed(_named(source, number_names=["price"]), numbers="median")
    assert json.loads(json.dumps(found.attributes["impute"]))
