"""Training from a file, a version or the hub, and with parts held still."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.errors import SchemaError, UsageError, WorkspaceError
from data_contracts.store import Dataset
from flows.update import UpdateTrainSettings
from models import registry
from models.backbones import create_model, vit
from models.checkpoint import load_model
from tasks import frozen, hub
from tasks.augment_settings import AugmentSettings
from tasks.clean import CleanSettings, clean_dataset
from tasks.inference import Predictor
from tasks.split import VAL, SplitSettings, split_dataset
from tasks.train import train_model
from tasks.train_settings import Preset, TrainSettings
from tasks.transfer import begin_from, check_start, content_of
from tests.datasets import make_dataset
from tests.models import miniatures

GOLDEN = Path(__file__).parents[1] / "models" / "golden"
MINI = GOLDEN / "vit.safetensors"
ASK = {"classes": ["a", "b"], "image_size": 32, "seed": 0}


@pytest.fixture(autouse=True)
def small_vit(monkeypatch):
    """Let `vit_tiny` be the miniature that a file is kept of."""
    monkeypatch.setitem(vit.SHAPES, "vit_tiny", miniatures.VIT)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Serve a folder as the hub would; yields the folder."""
    root = tmp_path / "host"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(hub, "HOST", f"http://127.0.0.1:{server.server_port}")
    yield root
    server.shutdown()
    server.server_close()


def publish(root: Path, name: str = "model.safetensors", **about: str) -> Path:
    folder = root / "some" / "vit" / "resolve" / "main"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(MINI, folder / name)
    for file, text in about.items():
        (folder / file.replace("_json", ".json").replace("_md", ".md")).write_text(text)
    return folder / name


def begin(init: str, home: Path, *, preset: str = "vit_tiny", classes=("a", "b")):
    model = create_model(preset, num_classes=len(classes), image_size=32, seed=0)
    return begin_from(init, preset, model, classes=list(classes), home=home)


def test_a_file_gives_weights_pixels_and_a_note(tmp_path):
    found = begin(str(MINI), tmp_path)
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    assert found.params["head"]["kernel"].shape == (18, 2)
    (note,) = found.notes
    assert "as huggingface names them, licence unknown, SHA-256" in note


def test_pixels_and_licence_come_from_the_files_beside(tmp_path):
    shutil.copy(MINI, tmp_path / "a.safetensors")
    (tmp_path / "README.md").write_text("---\ntags: x\nlicense: apache-2.0\n---\nHi")
    about = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    found = begin(str(tmp_path / "a.safetensors"), tmp_path)
    assert found.mean == (0.1, 0.2, 0.3)
    assert "licence apache-2.0" in found.notes[0]


def test_timm_says_pixels_in_its_own_way(tmp_path):
    about = {"pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert hub.pixels_of(tmp_path) == ([0, 0, 0], [1, 1, 1])


@pytest.mark.parametrize("text", ["{", '{"image_mean": [1], "image_std": [1]}', "[]"])
def test_figures_that_cannot_be_of_pixels_are_refused(text, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(SchemaError, match=r"preprocessor_config\.json"):
        hub.pixels_of(tmp_path)


def test_the_hub_is_asked_once(host, tmp_path):
    published = publish(host, README_md="---\nlicense: mit\n---\n")
    found = begin("hf:some/vit", tmp_path)
    assert "licence mit" in found.notes[0]
    kept = list((tmp_path / "cache/weights/sha256").iterdir())
    assert len(kept) == 1
    content = content_of("hf:some/vit", home=tmp_path)
    published.unlink()
    assert begin("hf:some/vit", tmp_path).notes == found.notes
    assert content_of("hf:some/vit", home=tmp_path) == content


def test_a_named_file_of_the_hub_is_taken(host, tmp_path):
    publish(host, "other.safetensors")
    assert begin("hf:some/vit/other.safetensors", tmp_path).notes
    with pytest.raises(UsageError, match=r"no model\.safetensors or pytorch_model"):
        begin("hf:some/vit", tmp_path)


def test_without_a_network_the_error_names_the_file_to_place(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HOST", "http://127.0.0.1:9")
    place = tmp_path / "cache/weights/hf/some/vit/model.safetensors"
    with pytest.raises(WorkspaceError, match=str(place)):
        begin("hf:some/vit", tmp_path)
    place.parent.mkdir(parents=True)
    shutil.copy(MINI, place)
    assert begin("hf:some/vit", tmp_path).notes


def test_a_fetched_file_that_changed_is_refused(host, tmp_path):
    publish(host)
    begin("hf:some/vit", tmp_path)
    (blob,) = (tmp_path / "cache/weights/sha256").iterdir()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(SchemaError, match="changed on disk"):
        begin("hf:some/vit", tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init": "a.safetensors"}, "Sightline's own network"),
        ({"init": "hf:some", "preset": "vit_tiny"}, "should read hf:owner/name"),
        ({"init": "hf:a/../b", "preset": "vit_tiny"}, "should read hf:owner/name"),
        ({"init": "weights", "preset": "vit_tiny"}, "neither a weights file"),
        ({"init": "a@1", "freeze": "5"}, "small has 4 stages"),
        ({"freeze": "head"}, "pattern"),
        (
            {"init": "a@1", "freeze": "backbone", "layer_decay": 0.5},
            "Leave them out",
        ),
        ({"init": "a@1", "freeze": "backbone", "unfreeze": 0.5}, "Leave them out"),
        ({"unfreeze": 0.5}, "Name some to start from by init"),
        (
            {"init": "a@1", "unfreeze": 0.5, "schedule": "schedule_free"}
            | {"optimizer": "adamw"},
            "unfreeze=0",
        ),
        ({"probe": "first"}, "Name some by init"),
        ({"init": "a@1", "probe": "only", "epochs": 3}, "came epochs as well"),
        ({"init": "a@1", "probe": "only", "freeze": "2"}, "came freeze=2 as well"),
        ({"init": "a@1", "probe": "first", "balance": "ldam"}, "head of angles"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        TrainSettings(**settings)


def test_a_form_that_sends_every_setting_gives_those_that_a_person_changed():
    sent = UpdateTrainSettings().model_dump(mode="json")
    assert not UpdateTrainSettings.model_validate(sent).model_fields_set
    sent["network"]["test_flip"] = True
    sent["optimizer"] = "sgd"
    found = UpdateTrainSettings.model_validate(sent)
    assert found.model_fields_set == {"network", "optimizer"}
    assert found.network.model_fields_set == {"test_flip"}
    assert UpdateTrainSettings(optimizer="muon").model_fields_set == {"optimizer"}
    probe = TrainSettings(init="x@1", probe="only")
    assert TrainSettings.model_validate(probe.model_dump(mode="json")) == probe


def test_an_update_starts_from_its_champion_alone():
    with pytest.raises(ValidationError, match="starts from the champion"):
        UpdateTrainSettings(init="shop@1")


@pytest.mark.parametrize(
    ("init", "preset", "size", "said"),
    [
        (None, "dinov2_small", 16, "needs images of 28 px"),
        ("missing.safetensors", "vit_tiny", 32, "cannot be read"),
        (str(GOLDEN / "resnet.safetensors"), "vit_tiny", 32, "not weights of this"),
        (str(MINI), "vit_small", 32, "preset=vit_small: These weights do not fit"),
        ("shop@3", "vit_tiny", 32, "its versions are none"),
    ],
)
def test_a_start_that_cannot_work_is_refused_before_any_stage(
    init, preset, size, said, tmp_path
):
    with pytest.raises(UsageError, match=said):
        check_start(init, preset, image_size=size, home=tmp_path)


def test_settings_know_every_network():
    from models.backbones import PRESETS

    assert tuple(str(preset) for preset in Preset) == PRESETS


def divided(tmp_path: Path, **given):
    source = make_dataset(tmp_path, 40, size=32, **given)
    source = clean_dataset(source, CleanSettings(min_std=0, min_sharpness=0))
    return split_dataset(source, SplitSettings())


def trained(source, tmp_path: Path, **settings):
    plain = AugmentSettings(mixup=0, cutmix=0)
    settings = TrainSettings(epochs=1, batch_size=16, augment=plain, **settings)
    return train_model(source, settings, name="toy", runs=str(tmp_path / "runs"))


def test_a_linear_probe_moves_the_head_alone(tmp_path):
    found = trained(
        divided(tmp_path),
        tmp_path,
        preset="vit_tiny",
        init=str(MINI),
        freeze="backbone",
    )
    params, _, meta = load_model(found.model)
    fresh = begin(str(MINI), tmp_path).params
    assert meta["mean"] == meta["std"] == [0.5, 0.5, 0.5]
    assert found.notes[0].startswith(f"Started from {MINI}")

    def pair(name):
        return params[name], fresh[name]

    for name in fresh:
        # The average of weights that stay may differ in its last bit.
        same = jax.tree.map(
            functools.partial(np.allclose, rtol=1e-5), *map(_plain, pair(name))
        )
        assert all(jax.tree.leaves(same)) == (name != "head")


def test_a_probe_alone_fits_the_head_on_kept_features(tmp_path, monkeypatch):
    source = divided(tmp_path)
    ask = {"preset": "vit_tiny", "init": str(MINI), "probe": "only"}

    def probe(seed):
        settings = TrainSettings(**ask, seed=seed)
        return train_model(source, settings, name="toy", runs=str(tmp_path / "runs"))

    found = probe(0)
    params, *_ = load_model(found.model)
    fresh = begin(str(MINI), tmp_path).params
    for name in fresh:
        same = jax.tree.map(np.array_equal, _plain(params[name]), _plain(fresh[name]))
        assert all(jax.tree.leaves(same)) == (name != "head")
    assert found.epochs_run == 1
    assert "fitted to frozen features: top-1" in found.notes[-1]
    (line,) = found.history
    dataset = Dataset(source)
    val = np.flatnonzero(dataset.column("use") == VAL)
    answers = Predictor.load(found.model)(dataset.take(val)).argmax(1)
    known = [dataset.names("label_names")[label] for label in dataset.column("label")]
    right = [
        found.classes[a] == known[row] for a, row in zip(answers, val, strict=True)
    ]
    assert np.mean(right) == pytest.approx(line["val_top1"])

    monkeypatch.setattr(frozen, "embed_images", None)  # a second one finds them
    assert probe(1).run != found.run
    fit = trained(source, tmp_path, preset="vit_tiny", init=str(MINI), probe="first")
    assert fit.notes[-1] == found.notes[-1]
    assert fit.run != found.run


def test_a_version_lends_its_backbone_and_to_the_same_classes_its_head(tmp_path):
    source = divided(tmp_path)
    first = trained(source, tmp_path)
    registry.register(
        tmp_path / "models",
        "toy",
        build=lambda folder: shutil.copytree(first.model, folder / "model"),
        run_id=first.run,
        manifest={"run": first.run},
    )
    params = load_model(first.model)[0]
    kernel = np.asarray(params["head"]["kernel"])
    for classes, same in (("ab", True), ("ba", True), ("ac", False)):
        found = begin("toy@1", tmp_path, preset="small", classes=classes)
        wanted = kernel[:, ["ab".find(name) for name in classes]]
        assert np.array_equal(found.params["head"]["kernel"], wanted) == same
        stem = found.params["stem"]["conv"]["kernel"]
        np.testing.assert_array_equal(stem, params["stem"]["conv"]["kernel"])
    with pytest.raises(UsageError, match="Set preset=small"):
        begin("toy@1", tmp_path)
    again = trained(source, tmp_path, init="toy@1")
    assert again.run != first.run
    assert again.notes[0] == "Started from toy@1, with its head."


def _plain(state):
    if hasattr(state, "items"):
        return {key: _plain(value) for key, value in state.items()}
    return np.asarray(state)


def test_a_start_is_told_apart_by_the_pixels_it_expects(tmp_path):
    file = tmp_path / "a.safetensors"
    shutil.copy(MINI, file)
    before = content_of(str(file), home=tmp_path)
    about = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    assert content_of(str(file), home=tmp_path) != before


def test_weights_are_not_kept_without_what_says_how_to_use_them(host, tmp_path):
    publish(host)
    about = host / "some/vit/resolve/main/preprocessor_config.json"
    fetch = hub._fetch_about

    def fails(url, path, **given):
        if path.name == about.name:
            raise WorkspaceError("status 503")
        fetch(url, path, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "_fetch_about", fails)
        with pytest.raises(WorkspaceError, match="503"):
            begin("hf:some/vit", tmp_path)
    about.write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    assert begin("hf:some/vit", tmp_path).mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("license: other\nlicense_name: cc-by-nc", "cc-by-nc"),
        ("license:\ntags: [x]", "unknown"),
        ("license: 'mit'", "mit"),
    ],
)
def test_the_licence_is_what_the_card_says_on_its_line(card, said, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n")
    assert hub.licence_of(tmp_path, {}) == said
