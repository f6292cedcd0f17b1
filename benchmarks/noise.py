"""How noise is routed, and what filters make of it, against rivals.

    python benchmarks/noise.py --images 60

Training photos of groceries, CIFAR-10 and playing cards, whole or reduced to 96 pixels,
with planted damage, written as PNG or JPEG and decoded to 64, 96 and 224 pixels by the
stages themselves. Filters: PSNR to the clean photo decoded in the same way, beside
filters of the stored pixels alone. Rivals: OpenCV's non-local means and, if installed,
scikit-image's wavelet filter and noise estimate. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATA = ROOT.parent / "shared" / "data"
# Damage by the kind that it should be sent to; each is drawn by image.
DAMAGE = {
    "none": ((0, 0),),
    "gaussian": ((12, 16), (25, 40)),
    "impulse": ((0.02, 0.04), (0.05, 0.10)),
    "blur": ((2.5, 4),),
    "jpeg": ((6, 10),),
}
SIZES = (64, 96, 224)


def photos(n: int) -> dict[str, list[Any]]:
    """Return clean training photos by source, BGR."""
    import pyarrow.parquet as parquet

    with (DATA / "grocery" / "manifest.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "train"]
    groceries = [
        cv2.imread(str(DATA / "grocery" / row["path"]))
        for row in rows[:: len(rows) // n][:n]
    ]
    cards = sorted((DATA / "cards" / "train").glob("*.jpg"))[:n]
    table = parquet.read_table(DATA / "cifar10" / "train.parquet", columns=["img"])
    cifar = [row["img"]["bytes"] for row in table.slice(0, n * 50).to_pylist()[::50]]
    return {
        "grocery": groceries,
        "grocery at 96": [small(image, 96) for image in groceries],
        "cards": [cv2.imread(str(path)) for path in cards],
        "cifar10": [cv2.imdecode(np.frombuffer(x, np.uint8), 1) for x in cifar],
    }


def small(image: Any, side: int) -> Any:
    """Return the photo with its shorter side reduced to `side`."""
    scale = side / min(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def damaged(image: Any, kind: str, ends: tuple[float, float], seed: int) -> Any:
    """Return the photo with one kind of damage, its strength drawn between `ends`."""
    rng = np.random.default_rng([seed, int(ends[0] * 100)])
    amount = rng.uniform(*ends)
    if kind == "gaussian":
        noisy = image + rng.normal(0, amount, image.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if kind == "impulse":
        out, hit = image.copy(), rng.random(image.shape[:2])
        out[hit < amount / 2], out[hit > 1 - amount / 2] = 0, 255
        return out
    if kind == "blur":
        # Blur that survives a resize is a share of the side.
        return cv2.GaussianBlur(image, (0, 0), amount * min(image.shape[:2]) / 96)
    if kind == "jpeg":
        stored = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(amount)])[1]
        return cv2.imdecode(stored, 1)
    return image


def decoded(image: Any, ending: str, size: int) -> Any:
    """Return what decoding makes of the photo stored as PNG or JPEG (quality 90)."""
    from tasks.decode import DecodeSettings, Problem, decode_image

    data = cv2.imencode(ending, image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    found = decode_image(data, DecodeSettings(image_size=size))
    assert not isinstance(found, Problem)
    return found


def routed(found: list[Any], size: int) -> Any:
    """Return the kind that each decoded photo is sent to."""
    from tasks.denoise import DenoiseSettings, route
    from tasks.pixels import statistics

    figures = {
        name: np.array([one.sensed[name] for one in found]) for name in found[0].sensed
    }
    figures |= statistics(np.stack([one.image for one in found]))
    return route(figures, size=size, settings=DenoiseSettings()).astype(str)


def confusion(images: list[Any], size: int) -> dict[str, dict[str, float]]:
    """Return for each damage the share of photos sent to each kind."""
    table: dict[str, dict[str, float]] = {}
    for kind, strengths in DAMAGE.items():
        for ends in strengths:
            for ending in (".png",) if kind == "jpeg" else (".png", ".jpg"):
                kinds = routed(
                    [
                        decoded(damaged(image, kind, ends, i), ending, size)
                        for i, image in enumerate(images)
                    ],
                    size,
                )
                names, counts = np.unique(kinds, return_counts=True)
                row = f"{kind} {ends[0]:g}-{ends[1]:g} {ending[1:]}"
                table[row] = {
                    str(name): round(int(count) / len(kinds), 3)
                    for name, count in zip(names, counts, strict=True)
                }
    return table


def filters(images: list[Any], size: int, kind: str) -> dict[str, Any]:
    """Return PSNR and images a second of our treatment and of the rivals."""
    from tasks.denoise import DenoiseSettings, denoise

    ends, settings = DAMAGE[kind][1], DenoiseSettings()
    clean = [decoded(image, ".jpg", size).image for image in images]
    found = [
        decoded(damaged(image, kind, ends, i), ".jpg", size)
        for i, image in enumerate(images)
    ]
    kinds, left = routed(found, size), np.array([one.left for one in found])
    stored = np.stack([one.image for one in found])
    mended = np.stack(
        [one.image if one.mended is None else one.mended for one in found]
    )

    def ours(i: int) -> Any:
        own = (part[i : i + 1] for part in (stored, mended, kinds, left))
        return denoise(*own, settings=settings)[0]

    def means(i: int) -> Any:
        return cv2.fastNlMeansDenoising(stored[i], None, 0.8 * float(left[i]), 3, 9)

    ways: dict[str, Callable[[int], Any]] = {
        "nothing": lambda i: stored[i],
        "ours": ours,
        "median 3 of the stored": lambda i: cv2.medianBlur(stored[i], 3),
        "bilateral (5, 75, 5) of the stored": lambda i: cv2.bilateralFilter(
            stored[i], 5, 75, 5
        ),
        "OpenCV NLM coloured (10, 7, 21)": lambda i: cv2.fastNlMeansDenoisingColored(
            stored[i], None, 10, 10, 7, 21
        ),
        "OpenCV NLM (0.8 sigma, 3, 9)": means,
        "scikit-image wavelet": lambda i: wavelet(stored[i]),
    }
    return {name: timed(way, clean, len(images)) for name, way in ways.items()}


def wavelet(image: Any) -> Any:
    """Return scikit-image's BayesShrink, with its own estimate of the noise."""
    from skimage.restoration import denoise_wavelet

    out = denoise_wavelet(image, channel_axis=2, convert2ycbcr=True, rescale_sigma=True)
    return np.rint(np.clip(out, 0, 1) * 255).astype(np.uint8)


def timed(way: Callable[[int], Any], clean: list[Any], n: int) -> dict[str, Any]:
    """Return the mean PSNR of a filter, and its images a second on one thread."""
    try:
        start = time.perf_counter()
        out = [way(i) for i in range(n)]
        seconds = time.perf_counter() - start
    except ImportError as error:
        return {"missing": str(error)}
    errors = [
        np.mean((a.astype(float) - b) ** 2) for a, b in zip(out, clean, strict=True)
    ]
    psnr = np.mean([10 * np.log10(255**2 / max(error, 0.05)) for error in errors])
    return {"psnr": round(float(psnr), 2), "images_per_second": round(n / seconds)}


def estimates(images: list[Any]) -> dict[str, Any]:
    """Return 97 % of the clean readings, and the median at sigma 16, of both."""
    from tasks.sensor import middle, read_sensor

    def theirs(part: Any) -> float:
        from skimage.restoration import estimate_sigma

        return float(estimate_sigma(part, channel_axis=2, average_sigmas=True))

    ways = {"ours": lambda part: read_sensor(part).sigma, "scikit-image": theirs}
    found: dict[str, Any] = {}
    for name, way in ways.items():
        try:
            clean = [way(middle(image)) for image in images]
            start = time.perf_counter()
            noisy = [
                way(middle(damaged(image, "gaussian", (16, 16), i)))
                for i, image in enumerate(images)
            ]
            seconds = time.perf_counter() - start
        except ImportError as error:
            found[name] = {"missing": str(error)}
            continue
        found[name] = {
            "clean_97": round(float(np.quantile(clean, 0.97)), 1),
            "at_16": round(float(np.median(noisy)), 1),
            "told_apart": round(
                float(np.mean(np.array(noisy) > np.quantile(clean, 0.97))), 3
            ),
            "milliseconds_with_planting": round(1_000 * seconds / len(images), 2),
        }
    return found


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=60)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    sources = photos(given.images)
    report = {
        "benchmark": "noise",
        "images": given.images,
        "routing": {
            name: {
                size: confusion(images, size)
                for size in SIZES
                if size <= 1.5 * min(images[0].shape[:2])
            }
            for name, images in sources.items()
        },
        "filters": {
            f"{name} to {size}": {
                kind: filters(sources[name], size, kind)
                for kind in ("gaussian", "impulse")
            }
            for name, size in (
                *(("grocery", size) for size in SIZES),
                ("grocery at 96", 64),
            )
        },
        "estimates": {name: estimates(images) for name, images in sources.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
