"""Stored views: of training images only, whatever the chunks, and traceable."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.errors import ContractError, UsageError
from data_contracts.store import Dataset
from flows import stages
from flows.datasets import MaterialiseConfig, materialise
from flows.result import Clock
from flows.stages import StageSettings
from models.recipe import Augment
from tasks.augment_settings import AugmentSettings
from tasks.browse import find_snapshot
from tasks.clean import CleanSettings, clean_dataset
from tasks.lessons import pick_rows
from tasks.split import TRAIN, SplitSettings, split_dataset
from tasks.stage import run_stage
from tasks.train_settings import TrainSettings
from tasks.validate import validate_dataset
from tasks.views import (
    STILL_DEFAULT,
    MaterialiseSettings,
    StoredViews,
    store_views,
    stored_views,
    view_images,
)
from tests.datasets import NoSettings, make_dataset

THREE = StoredViews(views=3, seed=5, augment=STILL_DEFAULT)


def divided(tmp_path: Path, n=24, **given):
    cleaned = clean_dataset(
        make_dataset(tmp_path, n, **given), CleanSettings(min_std=0)
    )
    return split_dataset(cleaned, SplitSettings())


def test_every_training_image_gets_its_views_and_no_other_image_any(tmp_path: Path):
    source = divided(tmp_path)
    before, after = Dataset(source), Dataset(store_views(source, THREE))
    train = np.flatnonzero(before.column("use") == TRAIN)
    assert after.n == before.n + 3 * len(train)
    own = after.columns("origin", "view", "use", "label", "path", "group")
    new = slice(before.n, None)
    assert (own["use"][new] == TRAIN).all()
    assert sorted(set(own["origin"][new])) == list(train)
    assert own["view"].tolist() == [0] * before.n + [1, 2, 3] * len(train)
    np.testing.assert_array_equal(own["label"][new], own["label"][own["origin"][new]])
    np.testing.assert_array_equal(own["group"][new], own["group"][own["origin"][new]])
    assert own["path"][before.n] == f"{own['path'][train[0]]}#view1"
    np.testing.assert_array_equal(after.images[: before.n], before.images[:])


def test_views_differ_from_their_image_and_are_measured(tmp_path: Path):
    after = Dataset(store_views(divided(tmp_path), THREE))
    origin, view = after.column("origin"), after.column("view")
    images = np.asarray(after.images[:])
    for row in np.flatnonzero(view > 0):
        assert (images[row] != images[origin[row]]).mean() > 0.5
    grey = images[-1] @ [0.299, 0.587, 0.114]
    assert after.column("mean")[-1] == pytest.approx(grey.mean(), abs=3)
    assert after.column("phash")[-1] != after.column("phash")[origin[-1]]


def test_stored_views_are_trained_on(tmp_path: Path):
    source = divided(tmp_path)
    made = Dataset(store_views(source, THREE))
    rows = pick_rows(made, replay=None, seed=0)
    assert len(rows) == 4 * len(pick_rows(Dataset(source), replay=None, seed=0))


def test_a_view_depends_on_seed_row_and_number_alone():
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    rows, numbers = np.array([3, 3, 9, 9, 40, 41]), np.array([1, 2, 1, 2, 1, 1])

    def views(order, seed=0):
        return view_images(
            images[order], rows[order], numbers[order], seed=seed, augment=Augment()
        )

    order = np.arange(6)
    np.testing.assert_array_equal(views(order)[::-1], views(order[::-1]))
    np.testing.assert_array_equal(views(np.array([4] * 6))[0], views(order)[4])
    assert (views(order, seed=1) != views(order)).mean() > 0.5
    # The same picture in two rows, and two views of one row.
    images[:] = images[0]
    seen = views(order)
    assert (seen[0] != seen[2]).mean() > 0.5
    assert (seen[0] != seen[1]).mean() > 0.5


def test_making_them_again_is_free_and_other_settings_make_others(tmp_path: Path):
    source = divided(tmp_path)
    first = store_views(source, THREE)
    assert store_views(source, THREE) == first
    other = store_views(source, THREE.model_copy(update={"seed": 6}))
    assert other.digest != first.digest
    lineage = Dataset(first).attributes["lineage"]
    assert lineage[-1]["settings"]["augment"]["rotate"] == 15
    assert lineage[-1]["settings"]["seed"] == 5


def test_views_of_views_and_of_undivided_images_are_refused(tmp_path: Path):
    made = store_views(divided(tmp_path), THREE)
    with pytest.raises(ContractError, match="views already"):
        store_views(made, THREE.model_copy(update={"seed": 9}))
    bare = make_dataset(tmp_path / "bare")
    with pytest.raises(UsageError, match="not divided yet"):
        store_views(bare, THREE)


@pytest.mark.parametrize("column", ["use", "label"])
def test_a_view_in_test_or_under_another_label_breaks_the_contract(tmp_path, column):
    made = store_views(divided(tmp_path), THREE)
    validate_dataset(made, "views")

    def spoil(build):
        values = build.parent.column(column)
        values[-1] = 2 if column == "use" else 1 - values[-1]
        build.writer.write(**{column: values})

    spoilt = run_stage(
        "spoil",
        spoil,
        uri=made.uri,
        parent=made,
        version=1,
        settings=NoSettings(),
        inputs=column,
    )
    with pytest.raises(ContractError, match="#view3"):
        validate_dataset(spoilt, "views")


@pytest.mark.parametrize(
    "given", [{"mixup": 0.2}, {"cutmix": 0.2}, {"size": 32}, {"resolution": 0.5}]
)
def test_what_a_stored_view_cannot_carry_is_refused(given):
    with pytest.raises(ValidationError, match="belongs to training"):
        StoredViews(views=1, augment=STILL_DEFAULT.model_copy(update=given))


def test_what_is_stored_is_not_done_again_in_the_step(tmp_path: Path):
    source = divided(tmp_path)
    train = TrainSettings(epochs=40)
    stored, left = stored_views(source, MaterialiseSettings(views=2), train)
    assert stored.augment.rotate == 15
    assert stored.augment.cutmix == 0
    assert left.augment is not None
    assert (left.augment.rotate, left.augment.flip) == (0, 0)
    assert (left.augment.cutmix, left.augment.resolution) == (0.3, None)
    _, same = stored_views(source, MaterialiseSettings(views=2, live=True), train)
    assert same == train


def test_a_policy_can_be_stored(tmp_path: Path):
    train = TrainSettings(augment=AugmentSettings(policy="rand"))
    stored, left = stored_views(divided(tmp_path), MaterialiseSettings(views=1), train)
    assert stored.augment.policy == "rand"
    assert left.augment is not None
    assert left.augment.policy == "none"


def test_the_flow_stores_views_and_trains_on_them(tmp_path: Path):
    datasets, train = {"split": divided(tmp_path)}, TrainSettings(epochs=40)
    wanted = StageSettings(train=train, materialise=MaterialiseSettings(views=2))
    done, contracts, left = stages.materialise(datasets, wanted, clock=Clock())
    assert [*done] == ["split", "views"]
    assert stages.last(done).n > datasets["split"].n
    assert [contract.contract for contract in contracts] == ["views"]
    assert left.augment != train.augment
    usual = StageSettings(train=train)
    same = stages.materialise(datasets, usual, clock=Clock())
    assert same == (datasets, [], train)


def test_the_verb_stores_views_that_the_dataset_then_lists(tmp_path: Path):
    source = divided(tmp_path)
    reply = materialise(MaterialiseConfig(uri=source.uri, views=2))
    assert "views-" in reply.text()
    made = find_snapshot(source.uri, "views")
    assert made.n > source.n
    assert Dataset(made).column("view").max() == 2
