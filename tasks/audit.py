"""Audit a registered version: attack it, try defences, say what was found."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.errors import UsageError
from data_contracts.references import DatasetRef, Estimate, ModelRef, Reference, Verdict
from models.durable import write_over
from tasks.audit_attacks import Attacked, Attacks
from tasks.audit_defend import smooth, try_hardening, try_watch
from tasks.audit_detect import try_detectors, why_not
from tasks.audit_outcome import (
    AttackRow,
    DetectorRow,
    HardeningRow,
    ResilienceReport,
    Smoothed,
    WatchRow,
)
from tasks.audit_parts import Parts
from tasks.audit_runs import follow_curve, gradients, most_fragile, planned, run_attacks
from tasks.audit_settings import ResilienceSettings
from tasks.audit_subject import Subject, subject_of
from tasks.audit_wear import cover, wear
from tasks.audit_words import ABOUT, findings
from tasks.evaluation import Robustness
from tasks.inference import BATCH
from tasks.masking import alarms
from tasks.parallel import spans
from tasks.register import manifest_of
from tasks.scores import score, share_of
from tasks.stage import stage_task
from tasks.versions import folder_of
from tasks.wording import duration

log = logging.getLogger("sightline")

VERSION = 2
T = TypeVar("T")


class Audited(Reference):
    """A finished audit, and where all of it lies."""

    folder: str
    verdict: Verdict

    @property
    def report(self) -> ResilienceReport:
        """What was found."""
        path = Path(self.folder) / "audit.json"
        return ResilienceReport.model_validate_json(path.read_text("utf-8"))


@stage_task()
def audit_version(
    model: ModelRef,
    settings: ResilienceSettings,
    *,
    audits: str,
    given: DatasetRef | None,
    limit: int,
) -> Audited:
    """Put a version through everything, and keep what was found beside the runs.

    Every finished part is kept: the same audit, run again, goes on where it stopped.

    Args:
        model: The version.
        settings: How hard, and which defences.
        audits: Folder of all audits.
        given: Dataset to judge on in place of the version's own test split.
        limit: Most images to attack.

    Raises:
        ContractError: There is no image to judge on.
        UsageError: The model knows one class, or answers no numbers.
    """
    subject = subject_of(model, given=given, limit=limit)
    weights = digest(manifest_of(model)["files"])
    parts = settings, VERSION, weights, subject.identity
    folder = Path(folder_of(audits, model, *parts))
    done = folder / "audit.json"
    if done.exists():
        log.info("audit     already done (%s)", folder.name)
    else:
        attacks = Attacks(subject, Parts(folder / "parts"), seed=settings.attack_seed)
        write_over(done, audit_images(attacks, settings).model_dump_json(indent=1))
    found = Audited(folder=str(folder), verdict=Verdict.PASS)
    return found.model_copy(update={"verdict": found.report.verdict})


def audit_images(attacks: Attacks, settings: ResilienceSettings) -> ResilienceReport:
    """Return all that was found; what was done before is read."""
    subject, clock = attacks.subject, _Clock(attacks.parts.folder / "seconds.json")
    test = subject.test
    answered, clean = _clean(subject, settings)
    log.info("audit     %s images: %.1f %% right", f"{len(test):,}", 100 * clean.value)
    flat, broken, reason = _slopes(attacks)
    if not reason:
        _foretell(attacks, settings)
    rows, right, attacked = clock.time(
        "attacks", lambda: run_attacks(attacks, settings, reason)
    )
    curve, smallest = clock.time(
        "curve", lambda: follow_curve(attacks, settings, reason)
    )
    worn: Robustness | None = None
    if settings.spoiled:
        worn = clock.time("wear", lambda: wear(attacks, settings))
    covered = clock.time("covered", lambda: cover(attacks, settings))
    detectors, about = clock.time(
        "detectors", lambda: _detectors(attacks, attacked, settings)
    )
    hardening, watch = clock.time(
        "hardening", lambda: _hardening(attacks, attacked, settings)
    )
    smoothed: Smoothed | None = None
    if settings.sigma:
        smoothed = clock.time("smoothing", lambda: smooth(attacks, settings))
    chance = 1 / len(subject.classes)
    report = ResilienceReport(
        model=subject.model,
        dataset=test.dataset.ref.uri,
        given=subject.given,
        images=len(test),
        groups=int(test.groups.max()) + 1,
        classes=len(subject.classes),
        classes_present=len(np.unique(test.labels)),
        chance=chance,
        epsilon=settings.epsilon,
        level=settings.level,
        unanswered=int((~answered).sum()),
        attacks=[_clean_row(clean), *rows],
        curve=curve,
        wear=worn,
        covered=covered,
        detectors=detectors,
        detectors_about=about,
        hardening=hardening,
        watch=watch,
        smoothed=smoothed,
        alarms=alarms(
            right,
            curve,
            silent=flat,
            broken=broken,
            chance=chance,
            groups=test.groups,
            level=settings.level,
        ),
        fragile=most_fragile(attacks, settings, smallest),
        findings=[],
        notes=_notes(subject, settings, reason),
        seconds=clock.seconds,
    )
    return report.model_copy(update={"findings": findings(report)})


class _Clock:
    """Seconds by part, over all runs of one audit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        if path.exists():
            self.seconds = json.loads(path.read_text())

    def time(self, name: str, work: Callable[[], T]) -> T:
        """Do `work`, and add its time to the part `name`, also where it is stopped."""
        start = time.monotonic()
        try:
            found = work()
        finally:
            spent = time.monotonic() - start + self.seconds.get(name, 0.0)
            self.seconds[name] = round(spent, 2)
            write_over(self.path, json.dumps(self.seconds))
        log.info("audit     %s in %.0f s", name, self.seconds[name])
        return found


def _clean(subject: Subject, settings: ResilienceSettings) -> tuple[Array, Estimate]:
    """Return who was answered at all (n,), and the share of right answers.

    Raises:
        UsageError: Nobody was.
    """
    test, parts = subject.test, []
    for start, stop in spans(0, len(test), size=BATCH):
        parts.append(subject.predictor(subject.read(test, np.arange(start, stop))))
    scores = score(np.concatenate(parts), test.labels)
    if not scores.answered.any():
        raise UsageError(
            f"{subject.model.name} version {subject.model.version} answers no numbers"
            f" for any of {len(test):,} images: its weights are broken, and there is"
            " nothing to attack. Train it again, or audit another version."
        )
    right = share_of(scores.correct, groups=test.groups, level=settings.level)
    return scores.answered, right


def _slopes(attacks: Attacks) -> tuple[Array | None, Array | None, str]:
    """Return whose loss has no slope or a broken one, and why there is none at all."""
    try:
        found = attacks.parts.get(
            "slopes",
            lambda: dict(
                zip(
                    ("flat", "broken"),
                    attacks.silent(attacks.subject.test),
                    strict=True,
                )
            ),
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:160]
        return None, None, f"the network cannot be differentiated ({said})"
    return found["flat"], found["broken"], ""


def _foretell(attacks: Attacks, settings: ResilienceSettings) -> None:
    """Say how long the audit takes at most, by the time of two gradients."""
    some = attacks.subject.test.few(attacks.subject.part)
    attacks.silent(some)  # compiles, if that was not done
    start = time.monotonic()
    attacks.silent(some)
    each = (time.monotonic() - start) / (2 * attacks.subject.part)
    total = each * gradients(settings, len(attacks.subject.test))
    log.info(
        "audit     at most about %s, and compiling; a rerun goes on", duration(total)
    )


def _clean_row(clean: Estimate) -> AttackRow:
    return AttackRow(attack="clean", about=ABOUT["clean"], accuracy=clean)


def _detectors(
    attacks: Attacks, attacked: dict[str, Attacked], settings: ResilienceSettings
) -> tuple[list[DetectorRow], str]:
    if not settings.detect:
        return [], "Switched off (audit.detect)."
    if "pgd" not in attacked:
        return [], "Not run: the adaptive attack needs gradients, and there are none."
    if said := why_not(attacks):
        return [], said
    side = int(attacks.subject.predictor.meta["image_size"])
    known = planned(settings, side=side)["pgd"]
    chosen = {name: attacked[name] for name in ("pgd", "fgsm", "pgd_l2", "standard")}
    rows = try_detectors(attacks, known, chosen, settings)
    assert attacks.subject.val is not None
    return rows, (
        f"Thresholds let 5 % of {len(attacks.subject.val):,} clean validation images"
        " be taken for attacks."
    )


def _hardening(
    attacks: Attacks, attacked: dict[str, Attacked], settings: ResilienceSettings
) -> tuple[list[HardeningRow], list[WatchRow]]:
    if not settings.defend:
        return [], []
    if "pgd" not in attacked:
        return [], try_watch(attacks, attacked["square"], settings)
    side = int(attacks.subject.predictor.meta["image_size"])
    known = planned(settings, side=side)["pgd"]
    rows = try_hardening(attacks, known, attacked["pgd"], settings)
    return rows, try_watch(attacks, attacked["standard"], settings)


def _notes(subject: Subject, settings: ResilienceSettings, reason: str) -> list[str]:
    from models.attacks.settings import fallback_of

    present = np.unique(subject.test.labels)
    said = [
        "Attacks change pixels in float32; pictures on this page, detectors and"
        " defences see them rounded to 8 bits, as a file holds them.",
        "The attacker knows the network and its weights, except Square, which sees"
        " answers alone.",
    ]
    if fallback := fallback_of("standard", len(subject.classes)):
        said.append(f"Of standard: {fallback}.")
    if len(present) == 1:
        name = subject.classes[int(present[0])]
        said.append(
            f"All images are of one class, {name!r}: figures say nothing of the others."
        )
    if reason:
        said.append(f"Attacks along gradients were not run: {reason}.")
    return said
