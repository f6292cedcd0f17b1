"""What each method of explanation is worth, and what it costs, on two kinds of data.

    SIGHTLINE_HOME=/tmp/explanations python benchmarks/explanations.py

Trains the preset `small` on the groceries (64 px, official split) and on made-up
products that carry boxes (64 px), if that is not done yet under SIGHTLINE_HOME;
`--data cards` takes photos of playing cards with boxes. Then
explains the answers to an even draw of test images by every method, with the budgets
of `sightline explain`, beside a random map and an edge detector: areas of deletion and
insertion; energy inside the boxes and pointing, where there are boxes, of images that
are answered rightly; rank correlation with the map of shuffled weights; change under
slight noise; images a second, compilation apart. Intervals hold 95 % and are over
images, by a bootstrap. Finished methods stay in `explanations.jsonl` under
SIGHTLINE_HOME, and are not asked again. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATA = Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))
DRAWS = 2_000
NOISE = 4  # grey levels, standard deviation of what stability adds
REPEATS = 2  # draws of it
# Stability and shuffled weights ask these about fewer images.
SLOW, FEW = ("rise", "lime", "kernel_shap"), 16


def trained(name: str, *, epochs: int, home: Path) -> Any:
    """Train on one kind of data, unless it is done; return the version."""
    from flows import train
    from tasks.catalogue import write_catalogue
    from tasks.catalogue_settings import CatalogueSettings
    from tasks.train_settings import TrainSettings

    place = {"cards": DATA / "cards"}.get(name, DATA / "grocery" / "manifest.csv")
    if name == "products":
        place = home / "pictures" / "manifest.csv"
        if not place.exists():
            pictures = CatalogueSettings(images=3_000, image_size=64, users=0, events=0)
            place = write_catalogue(pictures, home / "pictures")
    settings = TrainSettings(epochs=epochs)
    return train.run(
        train.TrainConfig(data=str(place), name=name, train=settings)
    ).model


class Bench:
    """One model, its test images, and what every map is measured by."""

    def __init__(self, name: str, *, images: int, epochs: int, home: Path) -> None:
        model = trained(name, epochs=epochs, home=home)
        from models.checkpoint import load_model
        from models.explain.faithfulness import Removal, shuffled_weights
        from models.explain.subject import subject_of
        from tasks.explain import _usual
        from tasks.explain_choose import answers_of
        from tasks.explain_settings import ExplainSettings
        from tasks.explain_source import JudgedImages
        from tasks.inference import Predictor, devices
        from tasks.version_images import own_dataset

        self.mesh = devices()
        taught = own_dataset(model)
        params, stats, meta = load_model(Path(model.uri) / "model")
        self.subject, self.weights = subject_of(params, stats, meta)
        self.shuffled = shuffled_weights(self.weights, seed=0)
        size = int(meta["image_size"])
        pictures = JudgedImages(taught, size=size)
        answers = answers_of(pictures, Predictor(params, stats, meta))
        drawn = np.random.default_rng(0).permutation(len(pictures.paths))[:images]
        rows = np.sort(drawn)
        self.images, _ = pictures.read(rows)
        self.targets = answers.predicted[rows]
        self.masks, boxed = pictures.masks(rows, [pictures.given[row] for row in rows])
        full = self.masks.all((1, 2))
        self.boxed = boxed & ~full & (answers.given == answers.predicted)[rows]
        usual = ExplainSettings(method="expected_gradients")
        self.usual = _usual(taught, usual, size=size)
        self.removal = Removal(self.subject, self.weights, mesh=self.mesh)

    def explainer(self, method: str) -> Any:
        """Return a compiled method with the budget of the command line."""
        from models.explain.explainer import Explainer
        from tasks.explain_settings import ExplainSettings

        how = ExplainSettings(method=method).how
        return Explainer(
            self.subject,
            self.weights,
            how,
            background=self.usual,
            mesh=self.mesh,
            batch=FEW if method in SLOW else None,
        )

    def measured(self, maps: Any) -> dict[str, Any]:
        """Return what some maps of the images are worth."""
        from models.explain.faithfulness import area, energy_inside, pointing

        deleted, inserted = self.removal(self.images, self.targets, maps)
        found = {
            "deletion": interval(area(deleted)),
            "insertion": interval(area(inserted)),
        }
        if self.boxed.any():
            here, masks = maps[self.boxed], self.masks[self.boxed]
            found["energy"] = interval(energy_inside(here, masks))
            found["pointing"] = interval(pointing(here, masks))
            found["box area"] = interval(masks.mean((1, 2)))
        return found

    def method(self, name: str) -> dict[str, Any]:
        """Return all figures of one method."""
        from models.explain.faithfulness import change_under_noise, rank_agreement

        explainer = self.explainer(name)
        explainer(self.images[:1], self.targets[:1])  # compiles
        start = time.perf_counter()
        maps, told = explainer.explain(self.images, self.targets)
        seconds = time.perf_counter() - start
        few = FEW if name in SLOW else len(maps)
        images, targets, own = self.images[:few], self.targets[:few], maps[:few]
        other = explainer.with_weights(self.shuffled)(images, targets)
        rng = np.random.default_rng(1)
        noisy = [
            explainer(
                np.clip(
                    np.rint(images + rng.normal(0, NOISE, images.shape)), 0, 255
                ).astype(np.uint8),
                targets,
            )
            for _ in range(REPEATS)
        ]
        return self.measured(maps) | {
            "images_per_second": round(len(maps) / seconds, 2),
            "shuffled_weights": interval(rank_agreement(own, other)),
            "change_under_noise": interval(change_under_noise(own, np.stack(noisy))),
            "of_itself": {k: round(float(np.median(v)), 4) for k, v in told.items()},
        }


def interval(values: Any) -> list[float]:
    """Return the mean and its 95 % interval by a bootstrap over images."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    rng = np.random.default_rng(0)
    draws = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    ends = np.quantile(draws, [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), *ends)]


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="grocery,products")
    parser.add_argument("--methods", default="", help="some, comma between; all else")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=24)
    given = parser.parse_args()
    os.environ.setdefault("SIGHTLINE_HOME", "/tmp/explanations")
    home = Path(os.environ["SIGHTLINE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    from models.explain.how import Method
    from tasks.explain_figures import controls

    kept = home / "explanations.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {tuple(row["key"]): row["found"] for row in map(json.loads, lines)}
    chosen = given.methods.split(",") if given.methods else list(Method)
    found: dict[str, Any] = {}
    for name in given.data.split(","):
        bench = Bench(name, images=given.images, epochs=given.epochs, home=home)
        rows = {
            control: bench.measured(maps)
            for control, maps in controls(bench.images, seed=0).items()
        }
        for method in map(str, chosen):
            if method == Method.rollout:  # `small` has no attention
                continue
            key = (name, method, given.images, given.epochs)
            if key not in done:
                done[key] = bench.method(method)
                with kept.open("a") as file:
                    file.write(json.dumps({"key": key, "found": done[key]}) + "\n")
            rows[method] = done[key]
            print(name, method, rows[method]["images_per_second"], file=sys.stderr)
        found[name] = {"boxed": int(bench.boxed.sum()), "methods": rows}
    print(
        json.dumps(
            {
                "benchmark": "explanations",
                "images": given.images,
                "epochs": given.epochs,
                "data": found,
            }
        )
    )


if __name__ == "__main__":
    main()
