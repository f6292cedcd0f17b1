"""Checkpoints: whole or not there, and the same when they come back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_contracts.errors import SchemaError
from models.backbones import create_model
from models.checkpoint import (
    load_model,
    restore_epoch,
    restore_latest,
    save_checkpoint,
    save_model,
    tree_digest,
)
from models.steps import create_state, make_predict

STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.int32(4)}


def save(run_dir, *epochs, keep=frozenset({1, 2, 3})):
    for epoch in epochs:
        state = jax.tree.map(lambda leaf, e=epoch: leaf + e, STATE)
        memory = {"history": [epoch]}
        save_checkpoint(run_dir, state, epoch=epoch, memory=memory, keep=set(keep))


def largest_file(folder):
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def trained():
    model = create_model("small", num_classes=3, image_size=32, seed=0)
    return create_state(model, optax.adamw(1e-3))


def test_a_training_state_comes_back_to_the_bit(tmp_path, trained):
    state = trained[1]
    save_checkpoint(tmp_path, state, epoch=1, memory={"history": [1.5]}, keep=set())
    found = restore_latest(tmp_path, state)
    assert jax.tree.structure(found.state) == jax.tree.structure(state)
    assert tree_digest(found.state) == tree_digest(state)
    assert (found.epoch, found.memory["history"], found.notes) == (1, [1.5], ())


def test_types_of_leaves_come_back(tmp_path):
    state = {"a": jnp.ones(3, jnp.bfloat16), "b": np.float64(0), "c": np.int32(2)}
    save_checkpoint(tmp_path, state, epoch=1, memory={}, keep=set())
    found = restore_latest(tmp_path, state).state
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [
        leaf.dtype for leaf in jax.tree.leaves(state)
    ]


def test_an_empty_run_has_nothing_to_restore(tmp_path):
    assert restore_latest(tmp_path, STATE).epoch == 0


def test_only_the_checkpoints_asked_for_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep={1, 3})
    assert names(tmp_path) == ["1", "3", "4"]


def test_saving_an_epoch_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    save_checkpoint(tmp_path, STATE, epoch=1, memory={}, keep=set())
    assert restore_latest(tmp_path, STATE).state["step"] == 4
    assert names(tmp_path) == ["1"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut", "flipped", "memory", "emptied"])
def test_a_damaged_checkpoint_is_skipped_and_said(tmp_path, damage):
    save(tmp_path, 1, 2)
    last = tmp_path / "checkpoints" / "2"
    victim = largest_file(last)
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-7])
    elif damage == "flipped":
        held = bytearray(victim.read_bytes())
        held[len(held) // 2] ^= 0xFF
        victim.write_bytes(held)
    elif damage == "memory":
        (last / "memory.json").write_text('{"version": 1')
    else:
        for path in last.rglob("d/*"):
            path.unlink()
    found = restore_latest(tmp_path, STATE)
    assert found.epoch == 1
    assert found.state["step"] == 5
    assert "skipped checkpoint 2" in found.notes[0]


def test_arrays_that_changed_unnoticed_by_orbax_are_damage(tmp_path):
    save(tmp_path, 1)
    memory = tmp_path / "checkpoints" / "1" / "memory.json"
    held = json.loads(memory.read_text())
    memory.write_text(json.dumps(held | {"sha256": "0" * 64}))
    with pytest.raises(SchemaError, match="damaged"):
        restore_epoch(tmp_path, STATE, epoch=1)


def test_an_unfinished_checkpoint_is_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".2.aside" / "arrays").mkdir(parents=True)
    assert restore_latest(tmp_path, STATE).epoch == 1
    assert names(tmp_path) == ["1"]


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    save(tmp_path, 1)
    memory = tmp_path / "checkpoints" / "1" / "memory.json"
    held = json.loads(memory.read_text())
    memory.write_text(json.dumps(held | {"version": 99}))
    with pytest.raises(SchemaError, match="version 99"):
        restore_epoch(tmp_path, STATE, epoch=1)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(SchemaError, match="another network"):
        restore_epoch(tmp_path, STATE | {"w": np.zeros((2, 4), np.float32)}, epoch=1)


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, STATE, epoch=2, memory={"x": {1, 2}}, keep={1})
    assert names(tmp_path) == ["1"]


def test_a_model_predicts_the_same_after_loading(tmp_path, trained):
    graphdef, state = trained
    meta = {"preset": "small", "num_classes": 3, "label_names": ["a", "b", "ü"]}
    save_model(tmp_path / "m", state.params, state.stats, meta=meta)
    params, stats, read_back = load_model(tmp_path / "m")
    assert read_back == meta
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    predict = make_predict(graphdef, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    before = predict(state.params, state.stats, images)
    np.testing.assert_array_equal(predict(params, stats, images), before)


def test_a_model_without_statistics_can_be_saved(tmp_path):
    save_model(tmp_path / "m", {"w": np.ones(2)}, {}, meta={})
    params, stats, _ = load_model(tmp_path / "m")
    assert params["w"].tolist() == [1, 1]
    assert not jax.tree.leaves(stats)


def test_a_missing_model_is_a_schema_error(tmp_path):
    with pytest.raises(SchemaError, match="no whole checkpoint"):
        load_model(tmp_path / "none")


def test_a_checkpoint_of_a_newer_version_stops_the_run_and_stays(tmp_path):
    save(tmp_path, 1, 2)
    for memory in tmp_path.glob("checkpoints/*/memory.json"):
        held = json.loads(memory.read_text())
        memory.write_text(json.dumps(held | {"version": 99}))
    with pytest.raises(SchemaError, match="Upgrade"):
        restore_latest(tmp_path, STATE)
    assert names(tmp_path) == ["1", "2"]


def test_a_checkpoint_of_another_network_stops_the_run_and_stays(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(SchemaError, match="another network"):
        restore_latest(tmp_path, {"other": np.zeros(3)})
    assert names(tmp_path) == ["1"]


def test_more_than_ten_blocks_come_back_in_their_order(tmp_path):
    blocks = {i: {"kernel": np.full((2, 2), i, np.float32)} for i in range(12)}
    save_model(tmp_path / "model", {"blocks": blocks}, {}, meta={"preset": "x"})
    params, _, _ = load_model(tmp_path / "model")
    assert set(params["blocks"]) == set(range(12))
    assert [int(params["blocks"][i]["kernel"][0, 0]) for i in range(12)] == [*range(12)]
