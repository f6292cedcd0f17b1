"""A network that has learnt nothing, made once."""

import pytest


@pytest.fixture(scope="session")
def predictor():
    from flax import nnx

    from models.backbones import create_model
    from tasks.inference import Predictor

    model = create_model("small", num_classes=3, image_size=16, seed=0)
    _, params, stats = nnx.split(model, nnx.Param, ...)
    meta = {
        "preset": "small",
        "classes": ["a", "b", "c"],
        "image_size": 16,
        "temperature": 1.0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }
    return Predictor(nnx.as_pure(params), nnx.as_pure(stats), meta)
