"""The audit finds planted errors, and what follows stays within its bounds."""

from pathlib import Path

import numpy as np
import pytest

from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.embed import EmbedSettings, embed_dataset
from tasks.label_audit import (
    AuditSettings,
    audit_dataset,
    audit_limits,
    dynamics,
)
from tasks.label_policy import WrongLabels
from tasks.split import SplitSettings, split_dataset
from tasks.summary_labels import label_audit
from tasks.validate import validate_dataset
from tests.datasets import make_dataset

N = 240


def pictures(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Images of three stripes' directions, and which one each is."""
    rng = np.random.default_rng(1)
    kind = np.arange(n) % 3
    y, x = np.mgrid[:32, :32]
    phase = rng.random((n, 1, 1)) * 6
    along = np.select(
        [kind[:, None, None] == 0, kind[:, None, None] == 1], [x, y], x + y
    )
    wave = 127 + 90 * np.sin(along / 1.5 + phase) + rng.normal(0, 12, (n, 32, 32))
    return np.repeat(wave.clip(0, 255).astype(np.uint8)[..., None], 3, 3), kind


def embedded(tmp_path: Path, wrong: int = 30):
    """An embedded dataset whose first labels are wrong, and the truth."""
    images, truth = pictures()
    label = truth.copy()
    label[:wrong] = (truth[:wrong] + 1) % 3
    source = make_dataset(tmp_path, N, images=images, label=label, names="abc")
    source = clean_dataset(source, CleanSettings(near_distance=0))
    source = split_dataset(source, SplitSettings())
    runs = str(tmp_path / "runs")
    return embed_dataset(
        source, EmbedSettings(), name="toy", runs=runs, champion=None
    ), truth


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return embedded(tmp_path_factory.mktemp("audit"))


def audited(source, policy: str = "flag", **settings) -> Dataset:
    config = AuditSettings(wrong_labels=WrongLabels(policy), **settings)
    return Dataset(audit_dataset(source, config, runs=f"{source.uri}/../runs"))


def test_wrong_labels_are_flagged_and_nothing_else_changes(source):
    ref, truth = source
    found = audited(ref)
    c = found.columns("label", "target", "verdict", "suggested", "use", "weight")
    wrong, flagged = c["label"] != truth, c["verdict"] == "flagged"
    assert (flagged & wrong).sum() >= 0.6 * wrong.sum()
    assert (flagged & wrong).sum() >= 0.7 * flagged.sum()
    assert (c["suggested"] == truth)[flagged & wrong].mean() > 0.8
    assert (c["target"] == c["label"]).all()
    assert (c["weight"] == 1).all()
    assert (c["use"] == Dataset(ref).column("use")).all()


def test_the_audit_measures_itself_and_the_noise(source):
    facts = audited(source[0]).attributes["audit"]
    assert facts["canary_auroc"] > 0.9
    assert 0.04 < facts["noise_rate"] < 0.3
    assert facts["canary_planted"] == 16


def test_a_blind_audit_says_so(source):
    notes = audited(source[0], canary_floor=1.0).attributes["notes"]
    assert any("planted flips" in note for note in notes)


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [("weight", "weighted"), ("relabel", "relabelled"), ("drop", "dropped")],
)
def test_what_training_reads_follows_the_verdict(source, policy, verdict):
    ref, truth = source
    found = audited(ref, policy)
    c = found.columns("label", "target", "verdict", "suggested", "use", "weight")
    before = Dataset(ref).column("use")
    acted = c["verdict"] == verdict
    assert acted.sum() >= 5
    assert (before[acted] == 0).all()
    assert (c["use"][acted] == (-1 if policy == "drop" else 0)).all()
    assert (c["use"][~acted] == before[~acted]).all()
    learnt = c["suggested"] if policy == "relabel" else c["label"]
    assert (c["target"][acted] == learnt[acted]).all()
    weight = {"weight": 0.2, "relabel": 1.0, "drop": 0.0}[policy]
    np.testing.assert_allclose(c["weight"][acted], weight)
    assert (c["weight"][~acted] == 1).all()
    if policy == "relabel":
        assert (c["target"] == truth)[acted].mean() > 0.8


def test_the_audit_keeps_its_own_contract(source):
    ref, _ = source
    for policy in ("flag", "drop"):
        done = audited(ref, policy).ref
        settings = AuditSettings(wrong_labels=WrongLabels(policy))
        limits = audit_limits(done, settings)
        assert validate_dataset(done, "audited", parameters=limits).verdict == "pass"


def test_dynamics_of_the_encoder_are_a_third_view(source):
    ref, truth = source
    folder = Path(ref.uri).parent / "runs" / "toy-run"
    folder.mkdir(parents=True, exist_ok=True)
    wrong = Dataset(ref).column("label") != truth
    learnt = Dataset(ref).column("label").copy()
    learnt[0] += 1  # taught as something else: no word on the given label
    aum = np.where(wrong, -1.0, 1.0)
    np.savez(folder / "dynamics.npz", rows=np.arange(N), labels=learnt, aum=aum)

    class Told(Dataset):
        attributes = {"encoder": "toy-run"}  # noqa: RUF012

    assert dynamics(Dataset(ref), runs=str(folder.parent)) is None
    aum = dynamics(Told(ref), runs=str(folder.parent))
    assert np.isnan(aum[0])
    assert ((aum < 0) == wrong)[1:].all()


def test_the_report_gathers_suspects_by_class(source):
    ref, _ = source
    found = label_audit({"split": ref, "audit": audited(ref).ref})
    assert found is not None
    assert sum(found.counts["flagged"]) == sum(group.total for group in found.classes)
    first = found.classes[0].shown
    assert [s.score for s in first] == sorted((s.score for s in first), reverse=True)
    assert label_audit({"split": ref}) is None
