"""Optimisers, schedules, precision, parts of a batch, and what ends a run."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_contracts.errors import SightlineError, UsageError
from models import steps
from models.backbones import ResNet, Shape
from models.checkpoint import tree_digest
from models.feed import BatchSource
from models.fit import FitSettings, fit
from models.forward import forward, lower
from models.losses import cross_entropy
from models.optim import (
    OPTIMIZERS,
    evaluation_weights,
    free_adamw,
    lion,
    make_optimizer,
    sgd,
)
from models.recipe import NONE, RATES, Recipe
from models.schedules import SCHEDULES, one_cycle
from tests.models.cuts import cut_within
from tests.models.test_steps import (
    ELR,
    MEMORY,
    VIEW,
    Linear,
    N,
    batch,
    build,
    digest,
    make_objective,
)

TOTAL = 100


def blocks():
    """Two residual blocks and batch norm; no dropout."""
    return ResNet(Shape((4, 8), (1, 1), "half"), num_classes=3, rngs=nnx.Rngs(0))


class Plain(nnx.Module):
    """Blocks without batch norm: an example's gradient is its own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(3)])
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        x = self.stem(x)
        for block in self.blocks:
            x = jax.nn.relu(block(x)) + x
        return self.head(self.norm(x).mean((1, 2)))


def stepped(model, *, count=1, images=N, tx=None, **settings):
    _, state, step = build(model, tx, **settings)
    for index in range(count):
        state, metrics = step(state, *batch(images, seed=index))
    return state, metrics


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


# Schedules


def test_one_cycle_rises_and_falls_in_straight_lines():
    rates = np.array([one_cycle(1.0, 100, warmup=0.2)(s) for s in range(101)])
    assert rates.argmax() == 20
    assert rates[20] == pytest.approx(1)
    assert rates[100] == 0
    np.testing.assert_allclose(np.diff(rates[:21]), 0.96 / 20, rtol=1e-3)
    np.testing.assert_allclose(np.diff(rates[20:]), -1 / 80, rtol=1e-3)


@pytest.mark.parametrize("name", ["constant", "schedule_free"])
def test_a_constant_rate_stays_where_it_rose_to(name):
    rates = np.array([SCHEDULES[name](2.0, 100, warmup=0.1)(s) for s in range(300)])
    assert (np.diff(rates[:11]) > 0).all()
    assert (rates[10:] == 2).all()


# Optimisers, against their papers' formulas on one weight matrix and one vector


PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
GRADS = [
    {"kernel": jnp.array([[0.3, 0.1]]), "bias": jnp.array([-0.2])},
    {"kernel": jnp.array([[-0.2, 0.4]]), "bias": jnp.array([0.1])},
]


def walk(tx, params=PARAMS):
    state = tx.init(params)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_sgd_is_nesterov_s_with_decay_of_matrices_alone():
    found, _ = walk(sgd(0.1, weight_decay=0.01, clip=1e9))
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        weight, trace = PARAMS[name], 0.0
        for grads in GRADS:
            grad = grads[name] + decay * weight
            trace = grad + 0.9 * trace
            weight = weight - 0.1 * (grad + 0.9 * trace)
        np.testing.assert_allclose(found[name], weight, rtol=1e-6)


def test_lion_steps_by_signs_with_decay_of_matrices_alone():
    found, _ = walk(lion(0.01, weight_decay=0.5, clip=1e9))
    for name, decay in (("kernel", 0.5), ("bias", 0.0)):
        weight, mean = PARAMS[name], 0.0
        for grads in GRADS:
            sign = jnp.sign(0.9 * mean + 0.1 * grads[name])
            weight = weight - 0.01 * (sign + decay * weight)
            mean = 0.99 * mean + 0.01 * grads[name]
        np.testing.assert_allclose(found[name], weight, rtol=1e-6)


def test_schedule_free_adamw_is_evaluated_at_the_mean_of_its_steps():
    """Algorithm 1 of the paper: y between z and x, x the running mean of z."""
    params, state = walk(free_adamw(0.1, weight_decay=0.5, clip=1e9))
    for name, decay in (("kernel", 0.5), ("bias", 0.0)):
        x = z = y = PARAMS[name]
        second = 0.0
        for t, grads in enumerate(GRADS, 1):
            second = 0.999 * second + 0.001 * grads[name] ** 2
            scaled = grads[name] / (jnp.sqrt(second / (1 - 0.999**t)) + 1e-8)
            z = z - 0.1 * (scaled + decay * y)
            x = x + (z - x) / t
            y = 0.1 * z + 0.9 * x
        np.testing.assert_allclose(params[name], y, rtol=1e-5)
        found = evaluation_weights(state, params)[name]
        np.testing.assert_allclose(found, x, rtol=1e-5)


def test_gradients_are_clipped_before_any_optimizer():
    for name, make in OPTIMIZERS.items():
        one, _ = walk(make(0.1, clip=1e-3))
        other, _ = walk(make(0.1, clip=1e9))
        if name == "sgd":
            assert not np.allclose(one["kernel"], other["kernel"])
        state = make(0.1).init(PARAMS)
        wild = jax.tree.map(lambda g: 1e30 * g, GRADS[0])
        updates, _ = make(0.1).update(wild, state, PARAMS)
        assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))


COURSES = [
    *((name, "cosine") for name in OPTIMIZERS),
    ("adamw", "one_cycle"),
    ("adamw", "constant"),
    ("adamw", "schedule_free"),
    ("sgd", "schedule_free"),
]


@pytest.mark.parametrize(("optimizer", "schedule"), COURSES)
def test_every_optimizer_learns_at_its_own_rate(optimizer, schedule):
    """What is evaluated learns: the average of weights, or the schedule-free one."""
    rate, decay = RATES[optimizer]
    recipe = Recipe(
        optimizer=optimizer, schedule=schedule, learning_rate=rate, weight_decay=decay
    )
    tx, _ = make_optimizer(recipe, 60)
    graphdef, state, step = build(blocks(), tx)
    for index in range(60):
        state, _ = step(state, *batch(32, seed=index))
    images, labels, *_ = batch(64, seed=99)
    logits = steps.make_predict(graphdef, **VIEW)(*steps.eval_params(state), images)
    assert (np.asarray(logits).argmax(-1) == labels).mean() > 0.9


def test_a_schedule_free_run_keeps_the_optimizer_s_own_average():
    state, _ = stepped(Linear(), count=3, tx=free_adamw(0.1))
    own = evaluation_weights(state.opt, state.params)
    close(steps.eval_params(state)[0], own, rtol=1e-6)
    assert digest(own) != digest(state.params)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "sdg"}, "one of muon, adamw, sgd, lion; came 'sdg'"),
        ({"schedule": "step"}, "one of cosine, one_cycle, constant, schedule_free"),
        ({"schedule": "schedule_free"}, "adamw or sgd; came optimizer=muon"),
    ],
)
def test_an_unknown_optimizer_or_pair_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        make_optimizer(dataclasses.replace(Recipe(), **change), TOTAL)


# Sharpness-aware steps


def test_a_sharpness_aware_step_takes_the_gradient_uphill():
    _, state, step = build(Linear(), sam_radius=0.5)
    start = jax.device_get(state.params)
    images, labels, weights, places = batch()
    x = (images / 255.0 - np.array(VIEW["mean"])) / np.array(VIEW["std"])

    def loss(params):
        kernel, bias = params["head"]["kernel"], params["head"]["bias"]
        logits = jnp.asarray(x.reshape(N, -1), jnp.float32) @ kernel + bias
        return cross_entropy(logits, labels, smoothing=0.1).mean()

    value, grads = jax.value_and_grad(loss)(start)
    far = 0.5 / optax.tree.norm(grads)
    worst = jax.tree.map(lambda w, g: w + far * g, start, grads)
    assert loss(worst) > value
    state, metrics = step(state, images, labels, weights, places)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    uphill = jax.grad(loss)(worst)["head"]["kernel"]
    expected = start["head"]["kernel"] - 0.1 * uphill
    np.testing.assert_allclose(state.params["head"]["kernel"], expected, atol=1e-5)


def test_statistics_and_memory_are_those_of_the_weights_not_of_the_worst():
    plain, _ = stepped(blocks(), memory=MEMORY)
    sharp, _ = stepped(blocks(), memory=MEMORY, sam_radius=0.5)
    close(sharp.stats, plain.stats, rtol=1e-5, atol=1e-6)
    close(sharp.memory, plain.memory, rtol=1e-5, atol=1e-5)
    assert digest(sharp.params) != digest(plain.params)


# Parts of a batch


MIXED = dataclasses.replace(NONE, flip=0.5, mixup=0.5, cutmix=0.5, brightness=0.3)


@pytest.mark.parametrize("model", [Linear, Plain])
@pytest.mark.parametrize(
    "more", [{}, {"sam_radius": 0.1}, {"objective": make_objective(ELR), "decay": 0.7}]
)
def test_a_batch_in_parts_is_the_whole_batch(model, more):
    """With mixing, images of weight 0, and what is remembered."""

    def run(parts):
        _, state, step = build(
            model(), memory=MEMORY, augment=MIXED, accumulate=parts, **more
        )
        for index in range(2):
            images, labels, weights, places = batch(seed=index)
            weights[6:], places[7:] = 0, 99
            state, metrics = step(state, images, labels, weights, places)
        return state, metrics

    whole, of_whole = run(1)
    cut, of_cut = run(4)
    close(cut.params, whole.params, atol=1e-5)
    close(cut.memory, whole.memory, atol=1e-4)
    close(of_cut, of_whole, rtol=1e-4)


def test_batch_norm_sees_a_part_and_moves_once_a_part():
    class Norm(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x, *, train, rngs=None):
            x = self.norm(x.mean((1, 2)), use_running_average=not train)
            return self.head(x)

    images, *_ = batch()
    x = (images / 255.0 - np.array(VIEW["mean"])) / np.array(VIEW["std"])
    means = x.mean((1, 2)).reshape(2, N // 2, 3).mean(1)
    state, _ = stepped(Norm(), accumulate=2)
    expected = 0.5 * (0.5 * means[0]) + 0.5 * means[1]
    np.testing.assert_allclose(state.stats["norm"]["mean"], expected, rtol=1e-3)


def test_every_part_draws_its_own_dropout():
    class Dropped(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5)

        def __call__(self, x, *, train, rngs=None):
            ones = 0 * self.head(x.mean((1, 2))) + jnp.array([1.0, 2.0, 4.0])
            return self.drop(ones, deterministic=not train, rngs=rngs)

    _, state, step = build(Dropped(), memory=MEMORY, accumulate=2)
    images, _, weights, places = batch(8)
    state, _ = step(state, images, np.zeros(8, np.int32), weights, places)
    margins = np.asarray(state.memory["margin"])[:8, 0]
    assert (margins[:4] != margins[4:]).any()


# Precision


def test_bfloat16_computes_low_and_keeps_the_rest_high():
    model = blocks()
    seen = {}

    def spy(name, layer):
        def look(values, /, *, dtype=None, **more):
            out = promote(values, dtype=dtype, **more)
            seen[name] = [None if v is None else str(v.dtype) for v in out]
            return out

        promote, layer.promote_dtype = layer.promote_dtype, look

    lower(model)
    spy("conv", model.blocks[0].first.conv)
    spy("norm", model.blocks[0].first.norm)
    spy("head", model.head)
    out = model(jnp.ones((2, 16, 16, 3), jnp.bfloat16), train=True)
    assert seen["conv"][:2] == ["bfloat16", "bfloat16"]
    assert seen["norm"] == ["bfloat16", *["float32"] * 4]
    assert set(seen["head"]) == {"float32"}
    assert out.dtype == jnp.float32


def test_statistics_in_bfloat16_are_float32_s():
    """A mean of 256 and a spread of 1 has no room in bfloat16's eight bits."""

    class Norm(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(1, momentum=0.0, rngs=nnx.Rngs(0))

        def __call__(self, x, *, train, rngs=None):
            return self.norm(x, use_running_average=not train)[:, 0, 0]

    graphdef, params, stats = nnx.split(Norm(), nnx.Param, ...)
    x = 1 + jnp.arange(64.0).reshape(64, 1, 1, 1) / 128
    _, after = forward(
        graphdef,
        (nnx.as_pure(params), nnx.as_pure(stats)),
        x,
        key=jax.random.key(0),
        precision="bfloat16",
    )
    assert after["norm"]["mean"].dtype == jnp.float32
    assert float(after["norm"]["mean"][0]) == pytest.approx(float(x.mean()), rel=1e-6)


@pytest.mark.parametrize("model", [blocks, Plain])
def test_a_step_in_bfloat16_is_near_that_in_float32(model):
    exact, full = stepped(model(), images=32)
    rough, half = stepped(model(), images=32, precision="bfloat16")
    kept = jax.tree.leaves((rough.params, rough.stats, rough.ema))
    assert {str(leaf.dtype) for leaf in kept} == {"float32"}
    assert digest(rough.params) != digest(exact.params)
    assert float(half["loss"]) == pytest.approx(float(full["loss"]), rel=1e-2)
    _, start, _ = build(model())
    moves = [
        np.concatenate(
            [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)]
        )
        for pair in ((exact.params, start.params), (rough.params, start.params))
    ]
    assert np.linalg.norm(moves[1] - moves[0]) < 0.05 * np.linalg.norm(moves[0])


# Blocks computed twice


@pytest.mark.parametrize("model", [blocks, Plain])
def test_recomputed_blocks_give_the_same_step(model):
    whole, _ = stepped(model(), count=2, images=16)
    again, _ = stepped(model(), count=2, images=16, remat=True)
    close(again.params, whole.params, atol=1e-5)
    close(again.stats, whole.stats, atol=1e-5)


def test_recomputed_blocks_draw_the_same_dropout():
    class Dropping(nnx.Module):
        def __init__(self):
            self.drop = nnx.Dropout(0.5)

        def __call__(self, x, *, train, rngs):
            return self.drop(x, deterministic=not train, rngs=rngs)

    class Net(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
            self.blocks = nnx.List([Dropping(), Dropping()])

        def __call__(self, x, *, train, rngs=None):
            x = self.head(x.mean((1, 2)))
            for block in self.blocks:
                x = block(x, train=train, rngs=rngs)
            return x

    whole, _ = stepped(Net())
    again, _ = stepped(Net(), remat=True)
    close(again.params, whole.params, atol=1e-6)


def test_recomputing_takes_less_memory():
    class Deep(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.blocks = nnx.List([Wide(rngs) for _ in range(6)])
            self.head = nnx.Linear(64, 3, rngs=rngs)

        def __call__(self, x, *, train, rngs=None):
            x = x.reshape(len(x), -1)[:, :64]
            for block in self.blocks:
                x = block(x) + x
            return self.head(x)

    class Wide(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.Linear(64, 1024, rngs=rngs)
            self.down = nnx.Linear(1024, 64, rngs=rngs)

        def __call__(self, x):
            return self.down(jnp.tanh(self.up(x)))

    def memory(**settings):
        _, state, step = build(Deep(), **settings)
        compiled = step.lower(state, *batch(512)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    plain = memory()
    assert memory(remat=True) < 0.7 * plain
    assert memory(accumulate=8) < 0.5 * plain


def test_a_network_without_blocks_has_none_to_recompute():
    with pytest.raises(UsageError, match=r"Linear has none\. Set remat=no"):
        stepped(Linear(), remat=True)


def test_two_devices_take_the_step_of_one():
    """All at once; early learning, so that what is remembered counts too."""
    options = {
        "sam_radius": 0.1,
        "accumulate": 2,
        "remat": True,
        "memory": MEMORY,
        "objective": make_objective(ELR),
        "decay": 0.7,
    }
    mesh = steps.cpu_mesh()
    if mesh.size < 2:
        pytest.skip("needs two devices")
    tx = free_adamw(0.01)
    split, of_split = stepped(Plain(), tx=tx, images=16, mesh=mesh, **options)
    whole, of_whole = stepped(Plain(), tx=tx, images=16, **options)
    close(split.params, whole.params, atol=1e-4)
    close(split.ema, whole.ema, atol=1e-4)
    close(split.memory, whole.memory, atol=1e-4)
    close(of_split, of_whole, rtol=1e-4)


# Whole runs


LABELS = np.arange(40, dtype=np.int32) % 3


def read(rows):
    images = np.random.default_rng(0).integers(0, 100, (40, 8, 8, 3)).astype(np.uint8)
    images[np.arange(40), :, :, LABELS] += 100
    return images[rows]


SOURCE = BatchSource(
    labels=LABELS,
    train_rows=np.arange(3, 33),
    val_rows=np.arange(33, 40),
    read=read,
    chunk=8,
)
SHORT = Recipe(epochs=3, batch_size=8, augment=dataclasses.replace(NONE, flip=0.5))
SETTINGS = FitSettings(group=2, eval_batch_size=8)


class Small(nnx.Module):
    """A convolution that Muon takes, batch norm, a block, a head."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, 4, (4, 4), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(4, 4, (1, 1), rngs=rngs)])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        x = self.norm(self.stem(x), use_running_average=not train)
        for block in self.blocks:
            x = jax.nn.relu(block(x))
        return self.head(x.mean((1, 2)))


def run(folder, *, settings=SETTINGS, model=None, **change):
    return fit(
        model or Small(),
        SOURCE,
        recipe=dataclasses.replace(SHORT, **change),
        settings=settings,
        run_dir=Path(folder),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


OPTIONS = [
    *({"optimizer": name} for name in OPTIMIZERS),
    {"optimizer": "adamw", "schedule": "one_cycle"},
    {"optimizer": "adamw", "schedule": "constant"},
    {"optimizer": "adamw", "schedule": "schedule_free"},
    {"optimizer": "sgd", "schedule": "schedule_free", "sam_radius": 0.05},
    {"sam_radius": 0.05},
    {"accumulate": 2, "remat": True, "precision": "bfloat16"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_goes_on_to_the_same_bits(tmp_path, monkeypatch, options):
    """A run is cut in its second epoch, and another ends in the same state."""
    whole = run(tmp_path / "whole", **options)
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path / "cut", settings=settings, **options),
        settings=SETTINGS,
        at=(1, 2),
    )
    assert (tmp_path / "cut" / "checkpoints" / "1.2").is_dir()
    then = run(tmp_path / "cut", **options)
    assert then.resumed_from == 1
    assert [h["train_loss"] for h in then.history] == [
        h["train_loss"] for h in whole.history
    ]
    bits = [tree_digest((found.params, found.stats)) for found in (whole, then)]
    assert bits[0] == bits[1]
    states = [
        (tmp_path / name / "checkpoints" / "3" / "memory.json").read_text()
        for name in ("whole", "cut")
    ]
    kept = [text.split('"sha256": "')[1][:64] for text in states]
    assert kept[0] == kept[1]


def test_a_run_without_new_options_is_known_by_the_words_of_old():
    text = repr(Recipe())
    assert text.startswith("Recipe(preset='small', optimizer='muon', epochs=110")
    assert text.endswith(")")
    assert "schedule" not in text
    assert "remat" not in text
    assert "schedule='constant'" in repr(Recipe(schedule="constant"))
    assert "accumulate=2" in repr(Recipe(accumulate=2))


def test_more_parts_than_images_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"accumulate=16 parts .* came 8 images"):
        run(tmp_path, accumulate=16)


class Burst(Small):
    """A network that a single image breaks: the one whose first pixel is 255."""

    def __call__(self, x, *, train, rngs=None):
        bad = x[:, :1, :1, 0].reshape(-1, 1) > 1.99
        return super().__call__(x, train=train, rngs=rngs) + jnp.where(bad, 1e38, 0) * 9


def test_a_loss_that_is_no_number_names_step_and_images(tmp_path, monkeypatch):
    pixels = read(np.arange(40))
    pixels[17, 0, 0, 0] = 255
    seen = []

    def watched(rows):
        seen.append(rows)
        return pixels[rows]

    source = dataclasses.replace(SOURCE, read=watched)
    recipe = dataclasses.replace(SHORT, augment=NONE)
    with pytest.raises(SightlineError) as caught:
        fit(
            Burst(),
            source,
            recipe=recipe,
            settings=SETTINGS,
            run_dir=tmp_path,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
        )
    said = str(caught.value)
    assert "epoch 1/3, step " in said
    assert " of 4, on " in said
    rows = said.split("(rows ")[1].split(")")[0].split(", ")
    assert "17" in rows
    assert "Lower learning_rate (now 0.0028) or clip" in said


def test_the_last_good_checkpoint_stays(tmp_path, monkeypatch):
    """Steps so wide, from the second epoch on, that no weight stays a number."""

    def wild(recipe, total):
        tx, rate = make_optimizer(recipe, total)

        def update(grads, state, params):
            updates, state = tx.update(grads, state, params)
            return jax.tree.map(lambda u: u * jnp.inf, updates), state

        return optax.GradientTransformation(tx.init, update), rate

    briefly = dataclasses.replace(SETTINGS, max_minutes=0)
    first = run(tmp_path, settings=briefly)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with monkeypatch.context() as change:
        change.setattr("models.fit.make_optimizer", wild)
        with pytest.raises(SightlineError, match="epoch 2/3, step 2 of 4") as caught:
            run(tmp_path)
    assert "The checkpoint of epoch 1 stays" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept
    again = run(tmp_path, settings=briefly)
    assert tree_digest(again.params) == tree_digest(first.params)


def test_a_gradient_that_is_no_number_is_not_kept(tmp_path):
    """The loss beside it is a number, and the step the last of its epoch."""

    class Edge(Small):
        def __call__(self, x, *, train, rngs=None):
            out = super().__call__(x, train=train, rngs=rngs)
            return out + jnp.sqrt(jnp.square(out).sum() * 0)

    with pytest.raises(SightlineError, match="training gradient became nan"):
        run(tmp_path, model=Edge(), batch_size=32, epochs=1)
    assert not (tmp_path / "checkpoints").exists()
