"""What an audit says of networks whose weakness is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.errors import UsageError
from data_contracts.references import Estimate, Verdict
from tasks.audit import audit_images
from tasks.audit_attacks import Attacked, Attacks
from tasks.audit_defend import try_watch
from tasks.audit_outcome import CurvePoint, ResilienceReport
from tasks.audit_parts import Parts
from tasks.audit_report import render, shown
from tasks.audit_settings import HardenSettings, ResilienceSettings
from tasks.audit_words import DETECTORS
from tasks.corrupt import Corruption
from tasks.harden import Hardened, hardened
from tasks.masking import alarms
from tests.tasks.toys import Toy, toy_images, toy_subject

BARE = ResilienceSettings(
    steps=4,
    targets=1,
    queries=40,
    curve=(1, 8, 128),
    spoiled=False,
    covered=(),
    detect=False,
    defend=False,
    sigma=0,
)
WHOLE = BARE.model_copy(
    update={
        "spoiled": True,
        "corruptions": (Corruption.brightness,),
        "severities": (1,),
        "covered": (0.3,),
        "detect": True,
        "defend": True,
        "sigma": 0.05,
        "adaptive_steps": 3,
        "views": 2,
        "choose": 8,
        "certify": 64,
        "alpha": 0.05,
        "smoothed": 32,
    }
)


def audited(
    root: Path, toy: Toy, settings: ResilienceSettings = BARE, **given
) -> ResilienceReport:
    subject = toy_subject(root, toy, **given)
    return audit_images(Attacks(subject, Parts(root / "parts"), seed=0), settings)


def raised(report: ResilienceReport) -> set[str]:
    return {a.alarm for a in report.alarms if a.verdict == Verdict.FAIL}


def test_images_near_the_edge_fall_and_the_others_stand(tmp_path):
    found = audited(tmp_path, Toy())
    left = {row.attack: row.accuracy.value for row in found.attacks}
    assert left["clean"] == 1
    assert left["fgsm"] == left["pgd"] == left["standard"] == left["worst"] == 0.5
    assert [point.accuracy.value for point in found.curve] == [1, 0.5, 0]
    assert raised(found) == set()
    assert found.verdict == Verdict.PASS
    assert {one.levels for one in found.fragile} == {8}
    assert "50.0 %" in found.findings[0]


def test_a_network_that_hides_its_gradients_raises_the_alarm(tmp_path):
    found = audited(tmp_path, Toy("steps"))
    assert found.accuracy("standard").value < found.accuracy("apgd").value - 0.1
    assert {"Square breaks what gradients do not", "no slope"} <= raised(found)
    assert found.verdict == Verdict.FAIL
    assert found.findings[0].startswith("Do not trust")


def test_what_cannot_be_differentiated_is_attacked_by_its_answers_alone(tmp_path):
    asked = BARE.model_copy(update={"detect": True, "defend": True})
    found = audited(tmp_path, Toy("opaque"), asked)
    rows = {row.attack: row for row in found.attacks}
    assert rows["pgd"].verdict == Verdict.NOT_RUN
    assert "cannot be differentiated" in rows["pgd"].detail
    assert rows["square"].accuracy.value < 0.8
    assert found.hardening == []
    assert found.watch
    assert found.detectors == []
    assert "gradients" in found.detectors_about
    assert {a.verdict for a in found.alarms} == {Verdict.NOT_RUN}
    render(found, [], [])


def test_answers_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no numbers"):
        audited(tmp_path, Toy("mute"))


def test_everything_is_tried_shown_and_kept(tmp_path):
    found = audited(tmp_path, Toy(), WHOLE)
    assert all(row.is_evidence for row in found.detectors)
    assert [row.detector for row in found.detectors][-1] == "blend"
    assert all(row.false_alarms.value <= 0.1 for row in found.detectors)
    assert len(found.hardening) == 4
    assert found.hardening[0].gain is None
    assert found.hardening[1].adaptive.n == 64
    assert (
        found.smoothed.points[0].accuracy.value
        >= found.smoothed.points[-1].accuracy.value
    )
    assert len(found.covered) == 6
    assert found.watch[-1].near.value >= found.watch[0].near.value
    page = render(found, shown(found, tmp_path), [])
    assert page.count('alt="attacked"') == len(found.fragile) == 8
    assert "known" in page
    assert all(text in page for text in DETECTORS.values())
    assert "Brackets hold 95 % intervals" in page
    assert "http" not in page.replace("http-equiv", "")
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    again = audit_images(
        Attacks(toy_subject(tmp_path, Toy()), Parts(tmp_path / "parts"), seed=0), WHOLE
    )
    assert {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")
    } == written
    quick = {"seconds", "hardening"}  # wall time
    assert again.model_dump(exclude=quick) == found.model_dump(exclude=quick)


def test_a_stopped_audit_goes_on_after_its_last_part(tmp_path, monkeypatch):
    subject = toy_subject(tmp_path, Toy())
    attacks = Attacks(subject, Parts(tmp_path / "parts"), seed=0)
    one = attacks._one

    def stop_at_standard(attack, *rest):
        if attack.method == "standard":
            raise KeyboardInterrupt
        return one(attack, *rest)

    monkeypatch.setattr(attacks, "_one", stop_at_standard)
    with pytest.raises(KeyboardInterrupt):
        audit_images(attacks, BARE)
    done = {path.name for path in (tmp_path / "parts").glob("*.npz")}
    assert done == {"slopes.npz", "pgd-0.npz", "fgsm-0.npz", "pgd_l2-0.npz"}
    fresh = Attacks(subject, Parts(tmp_path / "parts"), seed=0)
    asked = []
    monkeypatch.setattr(
        fresh, "_one", lambda a, *rest: asked.append(a.method) or one(a, *rest)
    )
    audit_images(fresh, BARE)
    assert asked == ["standard", "pgd", "pgd", "pgd"]  # and the curve


def test_few_images_of_one_class_are_judged_and_said_to_be_that(tmp_path):
    asked = BARE.model_copy(update={"detect": True})
    found = audited(tmp_path, Toy(), asked, n=16, labels=np.zeros(16, np.int64))
    assert found.classes_present == 1
    assert found.accuracy("clean").value == 0.5
    assert any("of one class, 'a'" in note for note in found.notes)
    assert found.detectors == []  # a threshold of 16 images would mean nothing
    assert "there are 16" in found.detectors_about


def point(levels: float, value: float) -> CurvePoint:
    accuracy = Estimate(value=value, low=value - 0.01, high=value + 0.01, n=100)
    return CurvePoint(levels=levels, accuracy=accuracy)


def test_each_sign_of_hidden_gradients_is_noticed():
    n = 200
    half, all_, none = np.arange(n) % 2 == 0, np.ones(n, bool), np.zeros(n, bool)
    given = {"groups": np.arange(n), "level": 0.95, "chance": 0.1}

    def seen(right, curve, silent=none, broken=none) -> set[str]:
        found = alarms(right, curve, silent=silent, broken=broken, **given)
        return {a.alarm for a in found if a.verdict == Verdict.FAIL}

    falling = [point(1, 0.9), point(128, 0.0)]
    calm = {"fgsm": all_, "pgd": half, "apgd": half, "standard": half}
    assert seen(calm, falling) == set()
    assert seen(calm | {"fgsm": none}, falling) == {"one step beats many"}
    assert seen(calm | {"standard": none}, falling) == {
        "Square breaks what gradients do not"
    }
    assert seen(calm, [point(1, 0.9), point(128, 0.5)]) == {
        "a huge change does not break everything"
    }
    assert seen(calm, [point(1, 0.3), point(2, 0.9), point(64, 0.0)]) == {
        "more change, more right"
    }
    assert seen(calm, falling, silent=half) == {"no slope"}
    assert seen(calm, falling, broken=half) == {"slope is no number"}


def test_pictures_without_structure_resemble_nothing(tmp_path):
    grey = np.full((16, 16, 16, 3), 127, np.uint8)
    grey[:, 0, 0, 0] = 128
    grey[:8] = toy_images(8)[0]
    subject = toy_subject(tmp_path, Toy(), n=16, images=grey)
    attacks = Attacks(subject, Parts(tmp_path / "parts"), seed=0)
    attacks.parts.get("same-0", lambda: {"pixels": grey})
    same = Attacked(["same-0"], *[np.zeros(16)] * 4, seconds=0)
    exact = try_watch(attacks, same, BARE)[0]
    assert exact.distance == 0
    assert exact.near.value == 0.5  # the others are grey, and hash to 0
    assert exact.strangers.value == 0


def test_a_vote_answers_the_same_whatever_is_asked_beside():
    images = toy_images(40)[0]
    settings = HardenSettings(reencode=90, views=4)
    model = hardened(Toy(), settings)
    assert isinstance(model, Hardened)
    whole = model(images)
    assert whole.shape == (40, 2)
    np.testing.assert_allclose(model(images[7:9]), whole[7:9], atol=1e-6)
    assert hardened(toy := Toy(), HardenSettings()) is toy


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 4 / 255},  # in 0..1, where levels are asked for
        {"epsilon": 200},
        {"curve": (4, 4)},
        {"covered": (1.5,)},
        {"sigma": -1},
        {"alpha": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        ResilienceSettings(**wrong)
