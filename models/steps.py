"""The training state, and the compiled train and predict steps."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.accumulate import in_parts, uphill
from models.adversarial import CHANGE, Adversary, divergence, replayed
from models.augment import view
from models.design import PLAIN, Design
from models.distil import Teacher
from models.forward import forward
from models.losses import remembered
from models.machine import cores
from models.objective import Objective, margin_of
from models.optim import evaluation_weights
from models.processes import by_turns, in_turn
from models.recipe import Adversarial, Augment
from models.scales import answer
from models.shards import compiled, compiled_apart, one_after

AXIS = "batch"
LEAST_SHARE = 8  # images of a batch that a device is worth waking for
Channels = tuple[float, float, float]
Step = Callable[..., tuple["TrainState", dict[str, jax.Array]]]
Predict = Callable[..., jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, as pure arrays.

    Attributes:
        params: Weights.
        stats: Running statistics of batch norms.
        opt: The optimiser's state.
        ema: Exponential moving average of (params, stats).
        step: Steps taken.
        memory: What is remembered of each training image, see `memory_of`.
    """

    params: Any
    stats: Any
    opt: Any
    ema: Any
    step: jax.Array
    memory: Any = dataclasses.field(default_factory=dict)


def use_all_cores() -> None:
    """Give JAX one CPU device per core.

    Where JAX has computed already, as in a notebook, its devices stay what they are.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())


def device_mesh(batch_size: int | None = None) -> Mesh:
    """Return a mesh over the local devices, or over as many as a batch is worth.

    Batch norm and mixing see the images of one device only, so each gets some. Of
    several processes, all devices of all take part.
    """
    if jax.process_count() > 1:
        return Mesh(np.array(jax.devices()), (AXIS,))
    most = max(1, batch_size // LEAST_SHARE) if batch_size else None
    return Mesh(np.array(jax.local_devices()[:most]), (AXIS,))


def cpu_mesh() -> Mesh:
    """Return a mesh over all local CPU devices."""
    return Mesh(np.array(jax.local_devices(backend="cpu")), (AXIS,))


def create_state(
    model: nnx.Module,
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    memory: dict[str, jax.Array] | None = None,
) -> tuple[nnx.GraphDef, TrainState]:
    """Split `model` into its structure and a state that training may replace.

    A state that is not yet on the mesh of its step costs a second compilation.
    """
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)
    params, stats = _fresh(nnx.as_pure(params)), _fresh(nnx.as_pure(stats))
    start = _fresh((params, stats))
    state = TrainState(
        params,
        stats,
        tx.init(params),
        start,
        jnp.zeros((), jnp.int32),
        _fresh(memory or {}),
    )
    if mesh is not None:
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    return graphdef, state


def _fresh(tree: Any) -> Any:
    """Copy arrays, since a donated buffer may not appear twice."""
    return jax.tree.map(jnp.copy, tree)


def eval_params(state: TrainState) -> tuple[Any, Any]:
    """Return the averaged (params, stats) to evaluate and to keep."""
    return state.ema


def normalise(pixels: jax.Array, mean: Channels, std: Channels) -> jax.Array:
    """Return pixels (n h w c) in 0..1 as deviations from the channels' means."""
    return (pixels - jnp.array(mean)) / jnp.array(std)


def make_train_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
    *,
    augment: Augment,
    mean: Channels,
    std: Channels,
    ema: float,
    objective: Objective,
    seed: int,
    mesh: Mesh | None = None,
    decay: float = 0.0,
    sam_radius: float = 0.0,
    accumulate: int = 1,
    precision: str = "float32",
    remat: bool = False,
    teacher: Teacher | None = None,
    adversarial: Adversarial = Adversarial(),
    layout: Any = None,
) -> Step:
    """Compile one optimiser step; `state` is donated.

    Randomness depends on `seed`, `state.step` and the number of devices alone. Rows
    that fill a batch up to a multiple of the devices repeat others and weigh 0.

    A batch in parts gives the step of the whole one, to rounding: views and mixing
    partners are drawn before it is cut. What looks at several images differs: batch
    norm normalises by its part, and moves its running statistics once a part, so that
    at momentum .9 they follow the last ten parts rather than steps; dropout is drawn
    anew for each part.

    Args:
        graphdef: The model's structure, from `create_state`.
        tx: The optimiser.
        augment: Random views; `Augment.size` also sets the training resolution.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        ema: Decay of the weight average; earlier steps use (1 + step) / (10 + step).
            A schedule-free optimiser has an average of weights of its own, and only
            the statistics are averaged by this.
        objective: The loss of each example, from `make_objective`.
        seed: Start of the random stream.
        mesh: Devices to split the batch over; None is JAX's default device.
        decay: Of the remembered answers, where the state has them.
        sam_radius: Above 0, the gradient is that at the worst weights so far away
            (SAM, Foret et al. 2021, arXiv 2010.01412, equation 2); every step then
            takes two gradients of the whole batch. Statistics, memory and metrics are
            those of the first, at the weights themselves.
        accumulate: Parts that a device's share of the batch is cut into, one after
            the other; it divides that share.
        precision: "float32" or "bfloat16", see `forward.lower`.
        remat: Recompute blocks rather than remember them, see `remat`.
        teacher: Answers the very same views, for the objective's targets.
        adversarial: Learn from views that are attacked, see `adversarial`; "free" not
            where the state is split.
        layout: Of a state that is split over the devices, see `shards`; None is a
            whole one on each.

    Returns:
        step(state, images uint8 (n h w c), labels (n,), weights (n,), places (n,)) to
        the next state and {"loss", "grad_norm", "top1"}, means under `weights`.
        `places` are the images' rows in the state's memory; those beyond its end are
        not remembered.
    """
    run = functools.partial(forward, graphdef, precision=precision, remat=remat)
    foe = Adversary(adversarial, graphdef, mean, std, precision, remat, accumulate)
    free, replays = adversarial.method == "free", adversarial.updates

    def learn(
        state: TrainState,
        images: Any,
        labels: Any,
        weights: Any,
        places: Any,
        *taught: Any,
    ) -> Any:
        count = state.step if replays == 1 else state.step // replays
        key = jax.random.fold_in(jax.random.key(seed), count)
        if mesh is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        total = sum_over(jnp.sum(weights), mesh)
        pixels, own = view(images, key, augment)
        targets = state.memory.get("targets")
        if targets is not None:
            targets = targets.at[places].get(mode="fill", fill_value=0)
            targets = own[:, None] * targets + (1 - own[:, None]) * targets[::-1]
        if teacher is not None:
            targets = teacher.answers(taught[0], pixels)
        share = weights / jnp.maximum(total, 1e-12)
        pixels, moved = foe((state.params, state.stats), pixels, own, labels, key=key)
        examples = pixels, own, labels, labels[::-1], targets, share, moved
        change = state.memory.get(CHANGE)

        def loss(learnt: Any, stats: Any, key: jax.Array, part: Any) -> Any:
            pixels, own, first, second, targets, share, moved = part
            params, change = learnt if free else (learnt, None)
            if free:
                pixels = jnp.clip(pixels + change, 0, 1)
            normal = normalise(pixels, mean, std)
            logits, stats = run((params, stats), normal, key=key)
            of = functools.partial(objective, logits, step=state.step, targets=targets)
            value = own * of(first) + (1 - own) * of(second)
            if moved is not None:
                normal = normalise(moved, mean, std)
                answers, stats = run((params, stats), normal, key=key)
                value += adversarial.beta * divergence(logits, answers)
            hits = (logits.argmax(-1) == first).astype(jnp.float32)
            return jnp.sum(value * share), (jnp.sum(hits * share), stats, logits)

        gradient = functools.partial(
            in_parts,
            jax.value_and_grad(loss, has_aux=True),
            stats=state.stats,
            key=jax.random.fold_in(key, 2),
            examples=examples,
            parts=accumulate,
        )
        (value, (top1, stats, logits)), grads = gradient(
            (state.params, change) if free else state.params
        )
        if free:
            grads, slopes = grads
        whole = jnp.where(own == 1, places, jnp.iinfo(places.dtype).max)
        value, top1, grads = sum_over((value, top1, grads), mesh)
        if sam_radius:
            worst = uphill(state.params, grads, sam_radius)
            grads = sum_over(gradient(worst)[1], mesh)
        stats = mean_over(in_turn(stats, grads, mesh), mesh)
        seen = _all_of(in_turn((whole, labels, logits), (grads, stats), mesh), mesh)
        memory = _remember(state.memory, *seen, decay)
        if free:
            memory[CHANGE] = foe.pushed(change, slopes, pixels)
        return grads, stats, memory, {"loss": value, "top1": top1}

    given = [] if teacher is None else [teacher.weights]
    update = functools.partial(updated, tx=tx, ema=ema)
    if layout is not None:
        return compiled_apart(learn, update, layout, *given)
    local = one_after(learn, update)
    if free:
        local = replayed(local, adversarial, augment, seed=seed, mesh=mesh)
    return compiled(local, mesh, *given)


def updated(
    state: TrainState, learnt: Any, *, tx: optax.GradientTransformation, ema: float
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Return the state after a step, and what is told of it.

    Args:
        state: Before it.
        learnt: Gradient, statistics, memory and metrics of the batch.
        tx: The optimiser.
        ema: Decay of the weight average.
    """
    grads, stats, memory, metrics = learnt
    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    average = moved_average(state.ema, (params, stats), ema, state.step)
    own_average = evaluation_weights(opt, params)
    if own_average is not None:
        average = own_average, average[1]
    after = TrainState(params, stats, opt, average, state.step + 1, memory)
    return after, metrics | {"grad_norm": optax.tree.norm(grads)}


def _remember(
    memory: Any, places: jax.Array, labels: jax.Array, logits: jax.Array, decay: float
) -> Any:
    """Write what the answers to unmixed views say of their images."""
    found = dict(memory)
    if "margin" in memory:
        one = jnp.ones(len(labels))
        seen = jnp.stack([margin_of(logits, labels), one], -1)
        found["margin"] = memory["margin"].at[places].add(seen, mode="drop")
    if "targets" in memory:
        before = memory["targets"].at[places].get(mode="fill", fill_value=0)
        after = remembered(before, logits, decay=decay)
        found["targets"] = memory["targets"].at[places].set(after, mode="drop")
    return found


def moved_average(old: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """Move `old` towards `new`, faster in the first steps."""
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, b: a * keep + b * (1 - keep), old, new)


def _all_of(tree: Any, mesh: Mesh | None) -> Any:
    """Return the rows of all devices on each of them."""
    if mesh is None:
        return tree
    return by_turns(lambda a: jax.lax.all_gather(a, AXIS, tiled=True), tree, mesh)


def sum_over(tree: Any, mesh: Mesh | None) -> Any:
    """Return the sum of the devices' trees, on each of them."""
    if mesh is None:
        return tree
    return by_turns(lambda a: jax.lax.psum(a, AXIS), tree, mesh)


def mean_over(tree: Any, mesh: Mesh | None) -> Any:
    """Return the mean of the devices' trees, on each of them."""
    if mesh is None:
        return tree
    return by_turns(lambda a: jax.lax.pmean(a, AXIS), tree, mesh)


def make_predict(
    graphdef: nnx.GraphDef,
    *,
    mean: Channels,
    std: Channels,
    mesh: Mesh | None = None,
    embed: bool = False,
    design: Design = PLAIN,
) -> Predict:
    """Compile predict(params, stats, images) to float32 logits (n c).

    Images are uint8 (n h w c); params and stats come from `eval_params`. With `embed`
    the result is the embeddings (n d) that the head sees. Both are means over the views
    of `design`, see `scales`.
    """

    def local(weights: Any, images: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, *weights, copy=True)
        pixels = normalise(images.astype(jnp.float32) / 255, mean, std)
        ask = model.embed if embed else functools.partial(model, train=False)
        out = answer(ask, pixels, design)
        return out.astype(jnp.float32)

    return on_devices(local, mesh)


def on_devices(local: Callable[[Any, jax.Array], jax.Array], mesh: Mesh | None) -> Any:
    """Compile predict(params, stats, images) of `local(weights, images)`."""
    if mesh is None:
        return jax.jit(lambda params, stats, images: local((params, stats), images))
    whole, part = PartitionSpec(), PartitionSpec(AXIS)
    split = jax.shard_map(
        local, mesh=mesh, in_specs=(whole, part), out_specs=part, check_vma=False
    )
    return jax.jit(lambda params, stats, images: split((params, stats), images))
