"""Tables that keep every shipped contract, ways to break them, and a rule alone."""

from functools import cache

import numpy as np
import pandas as pd

from data_contracts.contracts import load_contract
from data_contracts.drift import baseline_of
from data_contracts.sketch import measure_figures, measure_values
from data_contracts.verdicts import check_table

STAGES = ("ingested", "drift", "cleaned", "split", "audited", "views", "predictions")
N = 120
LABELS = ["apple", "bread", "cheese"]


def good_table():
    """One table that keeps every promise of the three dataset stages."""
    row = np.arange(N)
    frame = pd.DataFrame(
        {
            "path": [f"{LABELS[i % 3]}/{i}.jpg" for i in row],
            "source": "shop",
            "era": 0,
            "ok": True,
            "problem": "",
            "sha256": [f"{i:064x}" for i in row],
            "width": 640,
            "height": 480,
            "bytes": 30_000 + row,
            "kind": "jpeg",
            "label": [LABELS[i % 3] for i in row],
            "coarse": "food",
            "split": None,
            "domain": "studio",
            "mean": 100.0 + row,
            "std": 40.0,
            "sharpness": 300.0,
            "saturation": 60.0,
            "sigma": 1.5,
            "impulse": 0.0,
            "sensor_sigma": 1.0,
            "sensor_impulse": 0.0,
            "blockiness": 1.1,
            "left_sigma": 0.5,
            "keep": True,
            "reason": "",
            "group": row,
            "noise": "none",
            "origin": row,
            "view": 0,
            "use": np.where(row < 54, "train", np.where(row < 60, "val", "test")),
            "suspicion": row / N,
            "suggested": [LABELS[(i + 1) % 3] for i in row],
            "verdict": np.where(row < 5, "weighted", "fine"),
            "target": [LABELS[i % 3] for i in row],
            "weight": 1.0,
            "reviewer": "",
        }
    )
    frame.loc[0, ["ok", "keep", "use"]] = [False, False, "unused"]
    frame.loc[0, ["problem", "reason", "kind"]] = ["truncated", "undecodable", ""]
    frame.loc[0, ["width", "height", "bytes"]] = 0
    frame.loc[0, ["mean", "std", "sharpness", "sigma"]] = np.nan
    return frame


def good_predictions():
    row = np.arange(N)
    return pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in row],
            "label": [LABELS[i % 3] for i in row],
            "predicted": [LABELS[i % 2] for i in row],
            "probability": 0.8,
            "top5": "|".join(LABELS),
            "nll": 0.2,
            "version": 1,
            "split": "test",
        }
    )


def good(stage):
    return good_predictions() if stage == "predictions" else good_table()


def good_arrays(stage):
    rng = np.random.default_rng(0)
    if stage == "predictions":
        probs = rng.random((N, 3), np.float32)
        return {"probs": probs / probs.sum(axis=1, keepdims=True)}
    table = good_table()
    return {
        "images": rng.integers(0, 256, (N, 4, 4, 3)).astype(np.uint8),
        "phash": np.arange(N, dtype=np.uint64),
        "label": (np.arange(N) % 3).astype(np.int32),
        "keep": table["keep"].to_numpy(bool),
        "group": np.arange(N),
        "origin": np.arange(N),
        "suspicion": np.linspace(0, 1, N, dtype=np.float32),
        "use": table["use"]
        .map({"train": 0, "val": 1, "test": 2, "unused": -1})
        .to_numpy()
        .astype(np.int8),
    }


def earlier():
    """What the earlier eras held: the good table's own columns, spread a little."""
    rng, table = np.random.default_rng(1), good_table()[1:]
    known = {}
    for name in ("label", "kind"):
        known[name] = measure_values(table[name])
    known["domain"] = measure_values(["studio"] * N)
    for name in ("mean", "std", "saturation", "sharpness", "sigma", "width", "height"):
        values = table[name].to_numpy(float)
        known[name] = measure_figures(values + rng.normal(0, 1e-3, N - 1))
    known["bytes"] = measure_figures(table["bytes"].to_numpy(float))
    return {name: baseline_of(state).model_dump() for name, state in known.items()}


def parameters(stage):
    """Values of the parameters that have no default."""
    if stage == "predictions":
        return {"rows": N, "label_names": LABELS}
    return {"earlier": earlier(), "tolerated": False} if stage == "drift" else {}


def put(column, value, rows=(7,)):
    """Return a change that writes `value` into `column` of `rows`."""

    def change(frame):
        if isinstance(value, str | None) or column in ("ok", "keep"):
            frame[column] = frame[column].astype(object)
        frame.loc[list(rows), column] = value

    return change


def drop(column):
    return lambda frame: frame.pop(column)


def both(*changes):
    def change(frame):
        for one in changes:
            one(frame)

    return change


def repeat(column):
    """Return a change that gives row 8 the value of row 7."""

    def change(frame):
        frame.loc[8, column] = frame.loc[7, column]

    return change


def add_row(frame):
    frame.loc[len(frame)] = frame.loc[7].replace({"7.jpg": "extra.jpg"})


@cache
def shipped_contract(stage):
    return load_contract(stage)


def one_rule(stage, name):
    contract = shipped_contract(stage)
    rules = [rule for rule in contract.rules if rule.name == name]
    return contract.model_copy(update={"rules": rules, "arrays": []})


def check_one(stage, name, frame, **given):
    values = parameters(stage) | given
    report = check_table(one_rule(stage, name), frame, parameters=values)
    return report.rules[0]
