"""Embeddings: by a quick fit or the champion, streamed, once."""

from pathlib import Path

import numpy as np
import pytest

from data_contracts.errors import UsageError
from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.embed import EmbedSettings, Encoder, embed_dataset, quick_settings
from tasks.split import SplitSettings, split_dataset
from tests.datasets import make_dataset


def embedded(tmp_path: Path, settings: EmbedSettings, **given):
    source = clean_dataset(
        make_dataset(tmp_path, 40, **given), CleanSettings(min_std=0)
    )
    source = split_dataset(source, SplitSettings())
    return embed_dataset(
        source, settings, name="toy", runs=str(tmp_path / "runs"), champion=None
    )


def test_images_get_embeddings_and_unreadable_files_zeros(tmp_path: Path):
    ok = np.arange(40) != 7
    found = Dataset(
        embedded(tmp_path, EmbedSettings(encoder=Encoder.fit, encoder_epochs=1), ok=ok)
    ).embeddings[:]
    assert found.shape == (40, 256)
    assert found.dtype == np.float32
    assert (np.abs(found).sum(1) > 0).tolist() == ok.tolist()


def test_embedding_twice_comes_to_the_same_snapshot(tmp_path: Path):
    first = embedded(tmp_path, EmbedSettings(encoder=Encoder.fit, encoder_epochs=1))
    assert (
        embedded(tmp_path, EmbedSettings(encoder=Encoder.fit, encoder_epochs=1))
        == first
    )
    assert (
        embedded(tmp_path, EmbedSettings(encoder=Encoder.fit, encoder_epochs=2))
        != first
    )


def test_a_champion_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(UsageError, match="no champion"):
        embedded(tmp_path, EmbedSettings(encoder=Encoder.champion))


def test_the_quick_fit_is_short_for_few_and_many_images():
    epochs = [quick_settings(EmbedSettings(), n=n).epochs for n in (10, 4_000, 10**6)]
    assert epochs == [24, 10, 6]
