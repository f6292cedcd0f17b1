"""The contact sheet: what a step makes of images, and the words for it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_contracts.store import Dataset
from models.augment import view
from models.recipe import NONE, Augment
from tasks.augment_settings import AugmentSettings
from tasks.clean import CleanSettings, clean_dataset
from tasks.split import SplitSettings, split_dataset
from tasks.summary_missing import missing_words
from tasks.summary_views import VIEWS, describe_views, seen_in_training
from tasks.train_settings import TrainSettings
from tasks.views import STILL_DEFAULT, StoredViews, store_views
from tests.datasets import make_dataset


def divided(tmp_path: Path) -> Dataset:
    cleaned = clean_dataset(make_dataset(tmp_path, 24), CleanSettings(min_std=0))
    return Dataset(split_dataset(cleaned, SplitSettings()))


def test_the_sheet_shows_what_a_step_trains_on_mixing_included(tmp_path: Path):
    augment = AugmentSettings(mixup=0.5, cutmix=0.5)
    shown, words = seen_in_training(divided(tmp_path), TrainSettings(augment=augment))
    originals = np.repeat(np.stack([item.original for item in shown]), VIEWS, axis=0)
    settings = Augment(**augment.model_dump())
    seen, own = view(jnp.asarray(originals), jax.random.key(0), settings)
    sheet = np.concatenate([item.seen for item in shown])
    assert np.abs(sheet - np.asarray(seen) * 255).max() <= 0.51
    captions = [word for item in shown for word in item.words]
    assert [bool(word) for word in captions] == [share < 0.98 for share in own]
    assert "CutMix 50%" in words


def test_a_policy_names_its_ops_for_each_view(tmp_path: Path):
    augment = AugmentSettings(policy="rand", policy_ops=3, mixup=0, cutmix=0)
    shown, words = seen_in_training(divided(tmp_path), TrainSettings(augment=augment))
    said = {op for item in shown for word in item.words for op in word.split(", ")}
    assert {"rotate", "equalize", "shear x"} <= said
    assert "RandAugment" in words
    assert "turn" not in words


def test_stored_views_are_named_as_such(tmp_path: Path):
    stored = StoredViews(views=9, augment=STILL_DEFAULT)
    made = Dataset(store_views(divided(tmp_path).ref, stored))
    shown, words = seen_in_training(made, TrainSettings(epochs=5))
    assert any("stored view" in item.label for item in shown)
    assert "in 9 stored views of each image, crop of 40% to 100%" in words


def test_nothing_asked_is_nothing_said():
    assert describe_views(NONE) == ""


def test_stored_views_count_as_no_missing_label(tmp_path: Path):
    before = divided(tmp_path)
    made = store_views(before.ref, StoredViews(views=3, augment=STILL_DEFAULT))
    assert missing_words(Dataset(made)) == missing_words(before)
