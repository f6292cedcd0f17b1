"""What covers cost, and what helps: accuracy on groceries against the covered share.

    SIGHTLINE_HOME=/tmp/occlusion python benchmarks/occlusion.py --epochs 24

Trains two classifiers on the official split at 64 px, alike but for occluders in the
second one's views, and a network that finds covered pixels, which never saw textures.
Then covers test images by each family in turn and asks five arms: the plain classifier,
the one trained with occluders, the plain one after inpainting under the true mask and
under the found one, and the trained one after inpainting under the found one. As a
rival in finding, the error of a PCA of bare patches. What is there already under
SIGHTLINE_HOME is not done again. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "manifest.csv"
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
ARMS = ("plain", "trained", "true mask", "found mask", "trained, found mask")
DRAWS = 1000
SIDE = 8


def prepare(data: Path, *, epochs: int, detector_epochs: int) -> dict[str, Any]:
    """Train what is not trained yet; return the models and the test images."""
    from data_contracts.store import Dataset
    from flows import occlusion, train
    from models.recipe import GENTLE
    from tasks.augment_settings import AugmentSettings
    from tasks.detector import load_detector
    from tasks.inference import Predictor
    from tasks.occlusion import OcclusionSettings
    from tasks.train_settings import TrainSettings

    found = occlusion.run(
        occlusion.OcclusionConfig(
            data=str(data),
            name="grocery",
            occlusion=OcclusionSettings(epochs=detector_epochs),
        )
    )
    gentle = AugmentSettings.model_validate(vars(GENTLE))
    made: dict[str, Any] = {"detector": load_detector(Path(found.found.detector.uri))}
    made["settings"] = OcclusionSettings(epochs=detector_epochs)
    made["figures"] = found.found.model_dump(mode="json", exclude={"history"})
    for name, chance in (("plain", 0.0), ("trained", 0.5)):
        views = gentle.model_copy(update={"occlude": chance})
        result = train.run(
            train.TrainConfig(
                data=str(data),
                name="grocery",
                train=TrainSettings(epochs=epochs, augment=views),
            )
        )
        made[name] = Predictor.load(Path(result.model.uri) / "model")
        made[f"{name} top-1"] = result.metrics["top1"].value
        made["dataset"] = Dataset(result.dataset)
    return made


def answers(
    made: dict[str, Any], rows: Any, family: str, *, method: str
) -> dict[str, Any]:
    """Return for each arm which images (fractions, n) are classified rightly."""
    from models.occlude import occlude_rows
    from models.recipe import OCCLUDERS
    from tasks.inpaint import Method, paint_over

    dataset = made["dataset"]
    images, names = dataset.take(rows), dataset.names("label_names")
    label = np.array(names, object)[dataset.column("label")[rows]]
    classes = np.array(made["plain"].classes, object)
    which = np.full(len(rows), OCCLUDERS.index(family))
    right: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    for share in FRACTIONS:
        fraction = np.full(len(rows), share, np.float32)
        # Not the neighbour, which is of the same class.
        donors = np.roll(images, len(images) // 2, axis=0)
        covered = occlude_rows(images, donors, rows, fraction, which, 7)
        seen, mask = (np.asarray(part) for part in covered)
        found = made["detector"](seen) >= 0.5
        # As the stage does, which leaves specks alone.
        found &= (found.mean(axis=(1, 2)) >= 0.02)[:, None, None]
        by_truth = paint_over(seen, mask, method=Method(method))
        by_found = paint_over(seen, found, method=Method(method))
        for arm, model, pixels in zip(
            ARMS,
            ("plain", "trained", "plain", "plain", "trained"),
            (seen, seen, by_truth, by_found, by_found),
            strict=True,
        ):
            right[arm].append(classes[made[model](pixels).argmax(axis=1)] == label)
    return {arm: np.stack(parts) for arm, parts in right.items()}


def patches(images: Any) -> Any:
    """Return every square of SIDE pixels in 0..1, (n, h', w', 3 SIDE^2)."""
    window = np.lib.stride_tricks.sliding_window_view(
        images.astype(np.float32) / 255, (SIDE, SIDE), axis=(1, 2)
    )
    return window.reshape(*window.shape[:3], -1)


def bare_patches(made: dict[str, Any]) -> tuple[Any, Any]:
    """Return the centre and the 16 main axes of patches of training images."""
    from tasks.split import TRAIN

    dataset = made["dataset"]
    rows = np.flatnonzero(dataset.column("use") == TRAIN)[::13]
    flat = patches(dataset.take(rows)).reshape(-1, 3 * SIDE**2)[::37]
    centre = flat.mean(axis=0)
    return centre, np.linalg.eigh(np.cov(flat - centre, rowvar=False))[1][:, -16:]


def reconstruction(
    made: dict[str, Any], basis: tuple[Any, Any], rows: Any, family: str
) -> float:
    """Return the pixel AUROC of a rival: how badly a PCA of bare patches fits."""
    from tasks.occlusion import _auroc, covered_rows, pixel_counts

    centre, axes = basis
    _, seen, mask = covered_rows(made["dataset"], rows, family, made["settings"])
    edge = ((0, 0), (SIDE // 2, SIDE // 2 - 1), (SIDE // 2, SIDE // 2 - 1), (0, 0))
    total = 0
    for image, truth in zip(np.pad(seen, edge, "reflect"), mask, strict=True):
        flat = patches(image[None]) - centre
        error = ((flat - flat @ axes @ axes.T) ** 2).mean(axis=-1)
        # The fourth root spreads small errors over the bins; ranks are all that counts.
        total = total + pixel_counts(np.minimum(error, 1) ** 0.25, truth[None])
    return float(_auroc(total)[0, 0])


def curve(right: Any) -> list[float]:
    """Return top-1 at each covered share."""
    return [round(float(x), 4) for x in right.mean(axis=1)]


def area(right: Any) -> Any:
    """Return each image's area under its curve (n,), 1 if it is always right."""
    share = right.astype(np.float64)
    return (share[:-1] + share[1:]).mean(axis=0) / 2


def interval(values: Any) -> list[float]:
    """Return the mean and its 95 % interval by a bootstrap over images."""
    rng = np.random.default_rng(0)
    draws = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    ends = np.quantile(draws, [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), *ends)]


def main() -> None:
    """Train, ask and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=GROCERY)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--detector-epochs", type=int, default=25)
    parser.add_argument("--images", type=int, default=1000, help="test images to ask")
    parser.add_argument("--method", default="telea", choices=["telea", "ns"])
    given = parser.parse_args()
    os.environ.setdefault("SIGHTLINE_HOME", "/tmp/occlusion")
    made = prepare(
        given.data, epochs=given.epochs, detector_epochs=given.detector_epochs
    )
    from models.recipe import OCCLUDERS
    from tasks.split import TEST

    test = np.flatnonzero(made["dataset"].column("use") == TEST)
    rows = np.sort(np.random.default_rng(0).permutation(test)[: given.images])
    right = {}
    for family in OCCLUDERS:
        right[family] = answers(made, rows, family, method=given.method)
        print(family, "done", file=sys.stderr)
    basis = bare_patches(made)
    areas = {
        arm: np.mean([area(right[name][arm]) for name in OCCLUDERS], axis=0)
        for arm in ARMS
    }
    print(
        json.dumps(
            {
                "benchmark": "occlusion",
                "images": len(rows),
                "epochs": given.epochs,
                "method": given.method,
                "test_top1": {k: made[f"{k} top-1"] for k in ("plain", "trained")},
                "fractions": FRACTIONS,
                "curves": {
                    name: {arm: curve(found[arm]) for arm in ARMS}
                    for name, found in right.items()
                },
                "area": {arm: interval(value) for arm, value in areas.items()},
                "area_against_plain": {
                    arm: interval(areas[arm] - areas["plain"]) for arm in ARMS[1:]
                },
                "area_true_mask_against_trained": interval(
                    areas["true mask"] - areas["trained"]
                ),
                "area_by_family": {
                    name: {arm: interval(area(found[arm])) for arm in ARMS}
                    for name, found in right.items()
                },
                "detector": made["figures"],
                "reconstruction_auroc": {
                    name: round(reconstruction(made, basis, rows[:100], name), 3)
                    for name in OCCLUDERS
                },
            }
        )
    )


if __name__ == "__main__":
    main()
