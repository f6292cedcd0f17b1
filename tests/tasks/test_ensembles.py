"""Several networks as one model: trained, stacked, averaged, taught from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.errors import UsageError
from data_contracts.references import ModelRef
from data_contracts.store import Dataset
from flows.ensembles import train_networks
from models import registry
from models.backbones import resnet
from models.checkpoint import load_model, tree_digest
from models.ensemble import averaged
from tasks import ensemble
from tasks.augment_settings import AugmentSettings
from tasks.calibration import fit_temperature
from tasks.clean import CleanSettings, clean_dataset
from tasks.ensemble import pupil_of
from tasks.ensemble_settings import EnsembleSettings, going_on
from tasks.folds import FoldSettings, fold_datasets, fold_of, fold_uses
from tasks.inference import Predictor
from tasks.members import Role, teacher_of
from tasks.network_settings import NetworkSettings
from tasks.split import SplitSettings, split_dataset
from tasks.train_settings import TrainSettings
from tasks.transfer import check_start, from_champion
from tests.datasets import make_dataset

N = 60
LABEL = np.arange(N) % 2
PLAIN = AugmentSettings(mixup=0, cutmix=0, resolution=1, zoom=(1, 1))


@pytest.fixture(scope="module", autouse=True)
def miniature():
    """Let `small` be a network that compiles at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.SHAPES, "small", resnet.Shape((4, 8), (1, 1), "half"))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Noise that is brighter in one class, divided into train, val and test."""
    pixels = np.random.default_rng(0).integers(0, 180, (N, 16, 16, 3)).astype("u1")
    pixels[LABEL == 1] += 60
    made = make_dataset(
        tmp_path_factory.mktemp("pictures"), N, label=LABEL, images=pixels
    )
    cleaned = clean_dataset(made, CleanSettings(min_std=0))
    return split_dataset(cleaned, SplitSettings(val=0.2))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("home") / "runs")


def settings(combine="none", *, networks=2, epochs=2, **given):
    own = {
        name: given.pop(name)
        for name in list(given)
        if name in EnsembleSettings.model_fields
    }
    return TrainSettings(
        epochs=epochs,
        batch_size=16,
        optimizer="adamw",
        augment=PLAIN,
        ensemble=EnsembleSettings(combine=combine, networks=networks, **own),
        **given,
    )


def train(source, runs, *args, **given):
    return train_networks(source, settings(*args, **given), name="toy", runs=runs)


def answers(model: Path, images, **changes):
    params, stats, meta = load_model(model)
    return Predictor(params, stats, meta | changes)(images)


def names(runs: str) -> set[str]:
    return {path.name for path in Path(runs).iterdir()}


@pytest.fixture(scope="module")
def seeds(source, runs):
    return train(source, runs, "seeds")


def test_an_ensemble_answers_the_mean_of_its_networks(source, runs, seeds):
    images = Dataset(source).take(np.arange(20))
    members = [train(source, runs, seed=seed) for seed in (0, 1)]
    each = [answers(one.model, images, temperature=1.0) for one in members]
    assert np.abs(each[0] - each[1]).max() > 1e-3
    together = answers(seeds.model, images, temperature=1.0)
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-6)


def test_its_embeddings_stand_side_by_side(source, runs, seeds):
    images = Dataset(source).take(np.arange(5))
    both = Predictor.load(seeds.model)
    first, second = (
        Predictor.load(train(source, runs, seed=seed).model).embed(images)
        for seed in (0, 1)
    )
    assert both.width == 2 * first.shape[1]
    expected = np.concatenate([first, second], axis=1)
    np.testing.assert_allclose(both.embed(images), expected, atol=1e-5)


def test_its_networks_are_the_runs_of_single_trainings(source, runs, seeds):
    before = names(runs)
    train(source, runs, seed=1)
    assert names(runs) == before
    assert "2 networks answer as one" in seeds.notes[0]


def test_an_ensemble_cut_short_in_a_network_goes_on_there(
    source, runs, seeds, tmp_path
):
    home = tmp_path / "runs"
    home.mkdir()
    first, second = (train(source, runs, seed=seed) for seed in (0, 1))
    for one in (first, second):
        shutil.copytree(one.folder, home / one.run)
    (home / second.run / "trained.json").unlink()
    shutil.rmtree(home / second.run / "checkpoints" / "2")
    shutil.rmtree(home / second.run / "model")
    again = train(source, str(home), "seeds")
    assert again.run == seeds.run
    made, expected = load_model(again.model), load_model(seeds.model)
    assert tree_digest(made[:2]) == tree_digest(expected[:2])
    assert made[2] == expected[2]


def test_a_soup_of_one_training_is_one_network(source, runs):
    found = train(source, runs, "soup", networks=3, epochs=6)
    params, _, meta = load_model(found.model)
    assert "members" not in meta
    assert params["head"]["kernel"].ndim == 2
    kept = sorted(
        p.name for p in (Path(found.folder.split("-soup")[0])).glob("members/*")
    )
    assert kept == ["4", "5", "6"]
    assert found.notes[0].startswith("A soup of ")


def test_a_soup_is_no_worse_on_validation_than_its_best_network(source, runs):
    found = train(source, runs, "soup", networks=3, epochs=6)
    judge = ensemble.Judge(source, found.classes)
    kept = sorted(Path(found.folder.split("-soup")[0]).glob("members/*"))
    alone = [judge.score(Predictor.load(folder))[1] for folder in kept]
    assert judge.score(Predictor.load(found.model))[1] >= max(alone)


def test_a_soup_has_statistics_of_its_own_where_its_networks_learnt(
    source, runs, monkeypatch
):
    found = train(source, runs, "soup", networks=3, epochs=6)
    kept = sorted(Path(found.folder.split("-soup")[0]).glob("members/*"))
    networks = [ensemble.Loaded(*load_model(folder)) for folder in kept]
    judge = ensemble.Judge(source, found.classes)
    monkeypatch.setattr(judge, "score", lambda predictor: (0.0, 1.0))  # all go in
    params, stats = averaged([each[:2] for each in networks])
    for freeze, alike in ((None, False), ("1", False), ("backbone", True)):
        _, soup, note = ensemble._soup(networks, judge, ["a", "b", "c"], freeze=freeze)
        assert note.startswith("A soup of 3 of 3")
        assert tree_digest(soup.params) == tree_digest(params)
        stem, last = (
            np.allclose(found["norm"]["var"], own["norm"]["var"], rtol=1e-5)
            for found, own in (
                (soup.stats["stem"], stats["stem"]),
                (soup.stats["blocks"][1]["second"], stats["blocks"][1]["second"]),
            )
        )
        assert (stem, last) == (freeze is not None, alike)


def test_from_one_start_a_soup_is_of_several_seeds():
    plans = ensemble.member_settings(settings("soup"), started=True)
    assert [plan.seed for plan, _ in plans] == [0, 1]
    assert [role.label for _, role in plans] == ["1 of 2", "2 of 2"]
    (plan,) = ensemble.member_settings(settings("soup"), started=False)
    assert plan[1].label == "train"


def test_snapshots_are_the_ends_of_the_cycles_of_one_training(source, runs):
    found = train(source, runs, "snapshots", epochs=4, learning_rate=1e-2)
    rates = [line["learning_rate"] for line in found.history]
    assert rates[1] < rates[0]
    assert rates[2] > rates[1]
    _, _, meta = load_model(found.model)
    assert len(meta["members"]) == 2
    run = Path(found.folder.split("-snapshots")[0])
    images = Dataset(source).take(np.arange(8))
    each = [answers(run / "members" / epoch, images) for epoch in ("2", "4")]
    together = answers(found.model, images, temperature=1.0)
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-6)


def test_folds_part_groups_and_spread_classes():
    rng = np.random.default_rng(0)
    label, group = np.repeat([0, 1, 2], [40, 20, 1]), np.arange(61)
    group[1:10:2] -= 1
    free = rng.random(61) < 0.9
    free[-1] = True
    fold = fold_of(label, group, free, of=4, seed=0)
    assert (fold[~free] == -1).all()
    assert fold[-1] == -1  # a class of one image trains everywhere
    for members in (np.flatnonzero(free & (group == g)) for g in np.unique(group)):
        assert len(set(fold[members])) <= 1
    for kind in (0, 1):
        count = np.bincount(fold[free & (label == kind)], minlength=4)
        assert count.max() - count.min() <= 3


def test_a_fold_leaves_test_out_and_never_judges_by_guesses_or_views():
    use = np.array([0, 0, 0, 0, 1, 1, 2, 2, -1, 0, 0, 0])
    columns = {
        "use": use,
        "group": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 10]),
        "label": np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),  # the last is changed
        "target": np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        "imputed": np.array([""] * 9 + ["neighbours", "", ""], object),
        "view": np.array([0] * 10 + [1, 0]),
    }
    found = [fold_uses(columns, FoldSettings(fold=i, of=3)) for i in range(3)]
    judged = np.array([uses == 1 for uses in found])
    assert (judged.sum(0) == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]).all()
    for uses in found:
        assert (uses[6:9] == use[6:9]).all()
        assert uses[9] == uses[11] == 0
        assert uses[10] == (-1 if uses[0] == 1 else 0)  # a view of a judged image


def test_folds_are_judged_and_calibrated_by_networks_that_have_not_seen(source, runs):
    found = train(source, runs, "folds")
    _, _, meta = load_model(found.model)
    (temperature,) = {own["temperature"] for own in meta["members"]}
    assert meta["temperature"] == 1
    dataset, seen = Dataset(source), []
    probs, labels = [], []
    learnt = np.flatnonzero(np.isin(dataset.column("use"), (0, 1)))
    members = [
        path for path in Path(runs).iterdir() if (path / "dynamics.npz").exists()
    ]
    for part in fold_datasets(source, of=2, seed=0):
        use = Dataset(part).column("use")
        train_rows, val = np.flatnonzero(use == 0), np.flatnonzero(use == 1)
        assert not set(train_rows) & set(val)
        seen.extend(val)
        run = next(
            path
            for path in members
            if np.array_equal(np.load(path / "dynamics.npz")["rows"], train_rows)
            and "folds" not in path.name
        )
        probs.append(answers(run / "model", dataset.take(val), temperature=1.0))
        labels.append(LABEL[val])
    assert sorted(seen) == learnt.tolist()
    own = fit_temperature(np.concatenate(probs), np.concatenate(labels))
    assert temperature == pytest.approx(own, rel=1e-3)


def test_an_ensemble_teaches_one_network(source, runs, seeds):
    found = train(source, runs, "seeds", distil=True)
    params, _, meta = load_model(found.model)
    assert "members" not in meta
    assert params["head"]["kernel"].ndim == 2
    other = train(source, runs)
    assert found.run != other.run
    assert tree_digest(params) != tree_digest(load_model(other.model)[0])


def test_a_teacher_that_counts_nothing_changes_no_bit(source, runs, seeds):
    taught = train(source, runs, "seeds", distil=True, distil_weight=0)
    other = train(source, runs)
    assert tree_digest(load_model(taught.model)[:2]) == tree_digest(
        load_model(other.model)[:2]
    )


def test_a_teacher_must_know_the_classes(source, runs, seeds):
    role = Role(teacher=str(seeds.model), taught_by="shop@3")
    distil = settings(distil=True, combine="seeds").distil
    ask = {"image_size": 32}
    teacher = teacher_of(role, distil, ask | {"classes": ["b", "a"]})
    assert (teacher.order, teacher.scale) == ((1, 0), 0.5)
    with pytest.raises(UsageError, match="shop@3 does not know 1 of 2: c"):
        teacher_of(role, distil, ask | {"classes": ["a", "c"]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"distil": True}, "what several answer; came combine=none"),
        ({"combine": "soup", "distil": True}, "came combine=soup. Set combine=snap"),
        ({"teacher": "shop"}, "teacher=shop should read NAME@VERSION"),
        ({"teacher": "shop@1", "combine": "seeds"}, "Set combine=none, or leave"),
    ],
)
def test_what_an_ensemble_cannot_be_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        EnsembleSettings(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": "focal", "teacher": "shop@1"}, "came loss=focal"),
        ({"balance": "effective", "teacher": "shop@1"}, "know nothing of balance"),
        ({"combine": "snapshots", "schedule": "constant"}, "a rate that falls"),
        ({"combine": "snapshots", "epochs": 1}, "came epochs=1 networks=2"),
        ({"combine": "snapshots", "thresholds": True}, "Leave head and thresholds"),
        ({"combine": "snapshots", "progressive": 0.5}, "came progressive=0.5. Leave"),
        (
            {"combine": "snapshots", "unfreeze": 0.3, "init": "a@1"},
            "came unfreeze=0.3. Leave",
        ),
        ({"combine": "snapshots", "balance": "ldam_deferred"}, "Set balance=ldam, or"),
    ],
)
def test_what_does_not_go_with_it_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        settings(**given)


def test_an_ensemble_at_its_default_renames_no_run():
    plain = TrainSettings(epochs=2)
    assert "ensemble" not in plain.identity()
    assert "ensemble" in settings("soup").identity()
    assert set(plain.identity()) == set(
        TrainSettings(epochs=2, ensemble=EnsembleSettings()).identity()
    )


@pytest.mark.parametrize(
    ("combine", "idle"),
    [
        ("none", {"networks": 7, "distil_weight": 0.5, "distil_temperature": 3}),
        ("seeds", {"distil_weight": 0.5}),
        ("snapshots", {"patience": 3}),
    ],
)
def test_what_does_nothing_renames_no_run(combine, idle):
    assert settings(combine, **idle).identity() == settings(combine).identity()


def test_what_a_teacher_counts_names_the_run():
    usual = settings(teacher="shop@1").identity()
    assert settings(teacher="shop@1", distil_weight=0.5).identity() != usual
    assert settings("seeds", networks=3).identity() != settings("seeds").identity()


def test_an_update_goes_on_with_every_network_or_says_why_not():
    asked, seeds = EnsembleSettings(), {"combine": "seeds", "networks": 3}
    how = {"champion": "shop@2"}
    assert going_on(asked, {}, **how) == asked
    assert going_on(asked, {"combine": "soup"}, **how) == asked
    assert going_on(asked, seeds | {"distil": True}, **how) == asked
    assert going_on(asked, seeds, **how).networks == 3
    assert going_on(EnsembleSettings(networks=3), seeds, **how).combine == "seeds"
    taught = EnsembleSettings(combine="seeds", distil=True, distil_weight=0.5)
    on = going_on(taught, seeds, **how)
    assert (on.networks, on.distil, on.distil_weight) == (3, True, 0.5)
    for given, came in (
        ({"combine": "none"}, "combine=none"),
        ({"networks": 6}, "networks=6"),
        ({"teacher": "x@1"}, "teacher=x@1"),
        ({"combine": "seeds", "networks": 4}, "networks=4"),
    ):
        said = f"learns on; came {came}. Leave that out, or train one network from it"
        with pytest.raises(UsageError, match=said):
            going_on(EnsembleSettings(**given), seeds, **how)
    with pytest.raises(UsageError, match="Train anew, or train one network"):
        going_on(asked, {"combine": "folds"}, **how)
    with pytest.raises(UsageError, match="has seen all but the test split"):
        going_on(EnsembleSettings(combine="folds"), {}, **how)


@pytest.fixture
def registered(seeds, tmp_path):
    """A home whose registry has the ensemble as shop@1, and that version."""

    def build(folder: Path) -> None:
        shutil.copytree(seeds.model, folder / "model")

    manifest = {"run": seeds.run, "classes": seeds.classes}
    root, own = tmp_path / "models", {"run_id": seeds.run, "who": "a test"}
    return registry.register(root, "shop", build=build, manifest=manifest, **own)


def test_an_update_starts_each_network_from_its_own(source, runs, seeds, registered):
    members = [load_model(train(source, runs, seed=seed).model) for seed in (0, 1)]
    for place, (params, _, meta) in enumerate(members):
        begin = from_champion(registered, member=place)
        assert begin.mean == pytest.approx(meta["mean"])
        np.testing.assert_array_equal(
            begin.params["head"]["kernel"], params["head"]["kernel"]
        )
    last = from_champion(registered).params["head"]["kernel"]
    np.testing.assert_array_equal(last, members[1][0]["head"]["kernel"])


def test_several_networks_are_no_start_but_may_teach(registered, tmp_path):
    with pytest.raises(UsageError, match="Let it teach instead: teacher="):
        check_start("shop@1", "small", image_size=16, home=tmp_path)
    role = pupil_of("shop@1", runs=str(tmp_path / "runs"))
    assert role.label == "student"
    assert Path(role.teacher).is_dir()
    with pytest.raises(UsageError, match="teacher=shop@2: shop has no version 2"):
        pupil_of("shop@2", runs=str(tmp_path / "runs"))


def test_a_boosted_head_starts_an_update_without_its_units(source, runs, tmp_path):
    found = train(source, runs, head="boosted")
    shutil.copytree(found.model, tmp_path / "model")
    start = ModelRef(name="shop", version=1, uri=str(tmp_path))
    assert set(from_champion(start).params["head"]) == {"kernel", "bias"}
    images = Dataset(source).take(np.arange(4))
    assert answers(found.model, images).shape == (4, 2)


def test_a_run_cut_short_still_makes_a_soup_of_its_best_epoch(source, runs):
    short = settings("soup", networks=2, epochs=6, max_minutes=1e-9, seed=5)
    found = train_networks(source, short, name="toy", runs=runs)
    assert found.notes[0] == "A soup of 1 of 1, the best first: epoch 1."
    assert "max_minutes is spent" in " ".join(found.notes)


def test_views_at_test_time_are_of_the_whole(source, runs):
    mirrored = NetworkSettings(test_flip=True)
    for combine, more in (
        ("snapshots", {"epochs": 4, "learning_rate": 1e-2}),
        ("seeds", {}),
    ):
        found = train(source, runs, combine, network=mirrored, **more)
        meta = load_model(found.model)[2]
        assert meta["network"]["test_flip"]
        assert len(meta["members"]) == 2
        images = Dataset(source).take(np.arange(6))
        both = answers(found.model, np.concatenate([images, images[:, :, ::-1]]))
        np.testing.assert_allclose(both[:6], both[6:], atol=1e-5)
