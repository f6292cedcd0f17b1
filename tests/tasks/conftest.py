"""A network that has learnt nothing, made once."""

import pytest


@pytest.fixture(scope="session")
def predictor():
    from tasks.inference import Predictor
    from tests.tasks.toys import untrained

    meta = {
        "preset": "small",
        "classes": ["a", "b", "c"],
        "image_size": 16,
        "temperature": 1.0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }
    return Predictor(*untrained(meta), meta)
