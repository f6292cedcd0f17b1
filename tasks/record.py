"""What a decision rests on: digests of data, code and weights, and uses of a test set.

The uses are lines of `test_sets.jsonl` in the workspace, only ever added to. A test set
that decided often has been chosen by, and its intervals promise less than they say.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.locks import exclusive
from data_contracts.references import CheckResult, DatasetRef, ModelRef, Verdict
from data_contracts.store import Dataset, storage_errors
from tasks.split import TEST

ROOT = Path(__file__).resolve().parents[1]
OFTEN = 20  # uses from which the gate says that a test set is worn


def test_set_of(source: DatasetRef) -> dict[str, Any]:
    """Return the digest and size of the test images of a snapshot, by their content.

    Two snapshots with the same test images and labels have the same digest.
    """
    dataset = Dataset(source)
    columns = dataset.columns("use", "sha256", "label")
    rows = columns["use"] == TEST
    return {
        "digest": content_digest(columns["sha256"][rows], columns["label"][rows]),
        "images": int(rows.sum()),
    }


def split_digest(source: DatasetRef) -> str:
    """Return the digest of which image is in which split."""
    columns = Dataset(source).columns("use", "sha256")
    return content_digest(columns["sha256"], columns["use"])


def content_digest(files: Array, codes: Array) -> str:
    """Return a digest of pairs (file, code), whatever their order."""
    lines = sorted(f"{file} {code}" for file, code in zip(files, codes, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def lock_file_digest() -> str:
    """Return the SHA-256 of the pinned requirements, '' where they are not there."""
    path = ROOT / "requirements.txt"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def count_use(models: Path, test_set: str, *, by: str, model: str, what: str) -> int:
    """Note one use of a test set and return how often it was used, this time too.

    The same use counts once, so that a run which goes on after a crash adds nothing.

    Args:
        models: Folder of the registry.
        test_set: Digest of the test images.
        by: What looked: gate or evaluate.
        model: Name of the model.
        what: Names the use, such as the version.
    """
    path = models.parent / "test_sets.jsonl"
    use = {"test_set": test_set, "by": by, "model": model, "what": what}
    with storage_errors(str(path)), exclusive(Path(f"{path}.lock"), what=str(path)):
        before = uses(models, test_set)
        if not any(use.items() <= line.items() for line in before):
            when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            torn = path.exists() and not path.read_bytes().endswith(b"\n")
            with path.open("a", encoding="utf-8") as file:
                file.write("\n" * torn + json.dumps({**use, "when": when}) + "\n")
                file.flush()
                os.fsync(file.fileno())
            return len(before) + 1
    return len(before)


def uses(models: Path, test_set: str) -> list[dict[str, Any]]:
    """Return every noted use of a test set; a line that a crash cut off is none."""
    path = models.parent / "test_sets.jsonl"
    found = []
    for text in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line.get("test_set") == test_set:
            found.append(line)
    return found


def wear(used: int, images: int) -> CheckResult:
    """Say how often the test images were looked at, which never blocks."""
    often = used >= OFTEN
    advice = " Bring new test images: results drift towards what they like."
    return CheckResult(
        check="test images: uses",
        verdict=Verdict.WARN if often else Verdict.PASS,
        blocking=False,
        n=images,
        detail=f"These {images:,} test images were used {used:,} "
        f"time{'s' * (used != 1)}, this one included.{advice * often}",
    )


def evidence_of(
    source: DatasetRef,
    *,
    candidate: dict[str, Any],
    champion: dict[str, Any] | None,
    rival: ModelRef | None,
) -> dict[str, Any]:
    """Return digests of what a decision rests on.

    Args:
        source: The snapshot judged on.
        candidate: Manifest of the candidate.
        champion: Manifest of the champion.
        rival: The champion.
    """
    return {
        "dataset": source.model_dump(),
        "split": split_digest(source),
        "checkpoint": digest(candidate["files"]),
        "champion_checkpoint": digest(champion["files"]) if champion else None,
        "champion": rival.model_dump() if rival else None,
        "config": digest(candidate["config"]),
        "versions": candidate["versions"],
        "lock_file": lock_file_digest(),
    }
