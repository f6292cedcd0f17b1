"""What progressive resizing brings: groceries at 64 px, by epochs and by minutes.

    SIGHTLINE_HOME=/tmp/progressive python benchmarks/progressive.py --epochs 24

The official split, the defaults of training, three arms a seed: views of full size
throughout; views that grow from half of it, in as many epochs; and those in as many
more epochs as the time of the first arm allows. Choose by `val_top1`; `top1` is on the
test photos. What is there already under SIGHTLINE_HOME is not trained again. Prints
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATA = Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))


def prepared(size: int) -> Any:
    """Return the split dataset at images of so many pixels."""
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings
    from tasks.listing import SourceSettings

    workspace.prepare()
    datasets, _ = prepare(
        str(DATA / "grocery" / "manifest.csv"),
        StageSettings(
            source=SourceSettings(root=str(DATA / "grocery")),
            decode=DecodeSettings(image_size=size),
        ),
        uri=workspace.dataset_uri("grocery"),
        clock=Clock(),
    )
    return datasets["split"]


def figures(arm: str, source: Any, **train: Any) -> dict[str, Any]:
    """Train one arm and judge it on the official test photos."""
    from flows import workspace
    from tasks.evaluate import evaluate_model
    from tasks.evaluation import EvaluateSettings
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    settings = TrainSettings(patience=0, **train)
    runs = str(workspace.runs_root())
    found = train_model(source, settings, name="grocery", runs=runs)
    evaluated = evaluate_model(source, found, EvaluateSettings(), champion=None)
    top1, history = evaluated.measured.figures["top1"], found.history
    line = {
        "arm": arm,
        **train,
        "minutes": round(sum(each["seconds"] for each in history) / 60, 3),
        "val_top1": round(history[found.best_epoch - 1]["val_top1"], 4),
        "top1": [round(v, 4) for v in (top1.value, top1.low, top1.high)],
    }
    print(json.dumps(line), file=sys.stderr, flush=True)
    return line


def main() -> None:
    """Run the arms that are missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.5, help="progressive=")
    given = parser.parse_args()
    logging.getLogger("sightline").setLevel(logging.WARNING)
    source, lines = prepared(given.size), []
    for seed in range(given.seeds):
        whole = figures("whole", source, epochs=given.epochs, seed=seed)
        growing = {"progressive": given.share, "seed": seed}
        same = figures("growing, same epochs", source, epochs=given.epochs, **growing)
        more = round(given.epochs * whole["minutes"] / same["minutes"])
        lines += [whole, same]
        if more > given.epochs:
            lines.append(figures("growing, same time", source, epochs=more, **growing))
    print(json.dumps({"benchmark": "progressive", **vars(given), "arms": lines}))


if __name__ == "__main__":
    main()
