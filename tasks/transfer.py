"""Start training from weights that exist: a file, a version of ours, or the hub's."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.config import digest
from data_contracts.errors import SchemaError, UsageError
from data_contracts.references import ModelRef
from models import registry
from models.design import PLAIN, Design
from models.presets import check_side
from models.pretrained import Weights, read_weights
from tasks import hub
from tasks.inference import devices
from tasks.network_settings import told
from tasks.starts import RUN_OF, VERSION_OF

log = logging.getLogger("sightline")

Channels = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Begin:
    """What training starts from.

    Attributes:
        params: Parameters of the whole network, the head's fresh or not.
        stats: Batch statistics.
        mean: Channel means of 0..1 pixels that the weights expect.
        std: Channel deviations of 0..1 pixels that the weights expect.
        classes: Classes that keep their place in the head.
        notes: What a person should know.
    """

    params: Any
    stats: Any
    mean: Channels
    std: Channels
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_start(
    init: str | None,
    preset: str,
    *,
    image_size: int,
    home: Path,
    design: Design = PLAIN,
) -> None:
    """Refuse what training would refuse, before any stage runs; fetch what is missing.

    Args:
        init: As in the settings of training.
        preset: The network.
        image_size: Side of the images.
        home: The workspace.
        design: What the network has beside its preset.

    Raises:
        UsageError: The weights are missing or of another network, or the images too
            small for it.
        SchemaError: The weights are damaged.
        WorkspaceError: The hub cannot be reached.
    """
    check_side(preset, image_size)
    if init is not None:
        devices()
        from models.backbones import create_model

        model = create_model(
            preset, num_classes=1, image_size=image_size, seed=0, design=design
        )
        begin_from(init, preset, model, classes=[""], home=home)


def content_of(init: str, *, home: Path) -> str:
    """Return a digest that tells apart what `init` stood for at different times."""
    if found := VERSION_OF.fullmatch(init):
        return str(_version(found, home=home)["run_id"])
    if found := RUN_OF.fullmatch(init):
        return _run(found, home=home).name
    weights, folder = _read(init, home=home)
    return digest(weights.sha256, hub.pixels_of(folder))


def begin_from(
    init: str,
    preset: str,
    model: Any,
    *,
    classes: list[str],
    home: Path,
    head: str = "linear",
) -> Begin:
    """Return what training starts from: the weights of `init` under a fresh head.

    A version of ours keeps its head too, where it knows the very same classes.

    Args:
        init: A weights file, NAME@VERSION, run:RUN, or hf:owner/name[/file].
        preset: The network.
        model: The network with fresh weights; it stays.
        classes: Names of the classes to learn.
        home: The workspace: `models`, `runs` and `cache` are in it.
        head: "linear" or "cosine".

    Raises:
        UsageError: The weights are missing, or of another network.
        SchemaError: They are damaged.
        WorkspaceError: The hub cannot be reached.
    """
    from flax import nnx

    folder = None
    if found := VERSION_OF.fullmatch(init):
        folder = Path(_version(found, home=home)["uri"])
    elif found := RUN_OF.fullmatch(init):
        folder = _run(found, home=home)
    if folder is not None:
        parts = nnx.split(model, nnx.Param, ...)[1:]
        fresh = tuple(nnx.as_pure(part) for part in parts)
        return _from_ours(
            init,
            folder / "model",
            preset,
            fresh,
            design=model.shape.design,
            classes=classes,
            head=head,
        )
    return _from_file(init, preset, model, home=home)


def _from_file(init: str, preset: str, model: Any, *, home: Path) -> Begin:
    from models.transfer import import_weights

    weights, folder = _read(init, home=home)
    try:
        found = import_weights(model, weights.tensors, head=False)
    except UsageError as error:
        raise type(error)(f"init={init}, preset={preset}: {error}") from error
    mean, std = hub.pixels_of(folder) or found.pixels
    licence = hub.licence_of(folder, weights.metadata)
    note = (
        f"Started from {init}: {len(weights.tensors):,} tensors as {found.scheme} names"
        f" them, licence {licence}, SHA-256 {weights.sha256[:12]}; pixels are scaled by"
        f" the mean {_shown(mean)} and deviation {_shown(std)} that they expect."
    )
    log.info("weights   %s, licence %s", init, licence)
    return Begin(
        found.params,
        found.stats,
        triple(mean),
        triple(std),
        notes=(note,),
    )


def _read(init: str, *, home: Path) -> tuple[Weights, Path]:
    """Return the weights of a file or the hub, and where files about them lie."""
    if not init.startswith("hf:"):
        path = Path(init).expanduser()
        return read_weights(path), path.parent
    cache = home / "cache"
    return read_weights(hub.fetched(init, cache=cache)), hub.folder_of(
        init, cache=cache
    )


def _version(found: re.Match[str], *, home: Path, said: str = "init") -> dict[str, Any]:
    """Return the registry's row of NAME@VERSION.

    Raises:
        UsageError: There is no such version.
    """
    root, name, version = home / "models", found[1], int(found[2])
    rows = registry.versions(root, name) if name in registry.names(root) else []
    for row in rows:
        if row["version"] == version:
            return row
    there = ", ".join(str(row["version"]) for row in rows) or "none"
    raise UsageError(
        f"{said}={found[0]}: {name} has no version {version} in {root}; its versions"
        f" are {there}."
    )


def version_folder(text: str, *, home: Path, said: str = "init") -> tuple[Path, str]:
    """Return the weights' folder of NAME@VERSION, and the run that made them.

    Args:
        text: NAME@VERSION.
        home: The workspace.
        said: The setting that names it.

    Raises:
        UsageError: There is no such version.
    """
    found = VERSION_OF.fullmatch(text)
    if found is None:
        raise UsageError(f"{said}={text} should read NAME@VERSION.")
    row = _version(found, home=home, said=said)
    return Path(row["uri"]) / "model", str(row["run_id"])


def _run(found: re.Match[str], *, home: Path) -> Path:
    """Return the folder of a finished run.

    Raises:
        UsageError: There is none such.
    """
    folder = home / "runs" / found[1]
    if not (folder / "model").is_dir():
        raise UsageError(
            f"init={found[0]}: {home / 'runs'} holds no finished run of that name."
            " Look there, or take a version: init=NAME@VERSION."
        )
    return folder


def _from_ours(
    init: str,
    folder: Path,
    preset: str,
    fresh: Any,
    *,
    design: Design,
    classes: list[str],
    head: str,
) -> Begin:
    from models.checkpoint import load_model

    params, stats, meta = load_model(folder)
    if "members" in meta:
        raise UsageError(
            f"init={init} is {len(meta['members'])} networks that answer as one, and"
            " training starts from one. Let it teach instead: teacher=NAME@VERSION"
        )
    if meta["preset"] != preset:
        raise UsageError(
            f"init={init} is a {meta['preset']}; came preset={preset}. Set"
            f" preset={meta['preset']}."
        )
    layers = Design.of(meta.get("network")).layers
    if layers != design.layers:
        raise UsageError(
            f"init={init} was built with {told(layers)}; came"
            f" {told(design.layers)}. Give train.network as it was there."
        )
    params, stats = _plain(params), _plain(stats)
    known = meta["classes"]
    same = sorted(known) == sorted(classes) and meta.get("head", "linear") == head
    if same:  # an update puts new classes last, a first training sorts them
        order = [known.index(name) for name in classes]
        turned = {name: leaf[..., order] for name, leaf in params["head"].items()}
    params = {**params, "head": turned if same else fresh[0]["head"]}
    _same_shapes((params, stats), fresh, named=init)
    kept = "with its head" if same else "under a fresh head"
    return Begin(
        params,
        stats,
        triple(meta["mean"]),
        triple(meta["std"]),
        notes=(f"Started from {init}, {kept}.", *meta.get("about", ())),
    )


def from_champion(start: ModelRef, *, member: int | None = None) -> Begin:
    """Return what an update starts from: all of a version, and its classes.

    Args:
        start: The version.
        member: Which of its networks, where it has several; None is the last.
    """
    from models.checkpoint import load_model

    params, stats, meta = load_model(Path(start.uri) / "model")
    if "members" in meta:
        from models.members import member_of

        place = -1 if member is None else member
        params, stats = member_of((params, stats), place)
        meta = meta | meta["members"][place]
    if meta.get("head") == "boosted":  # its units belong to embeddings that will move
        params = _plain(params)
        params["head"] = {name: params["head"][name] for name in ("kernel", "bias")}
    return Begin(
        params,
        stats,
        triple(meta["mean"]),
        triple(meta["std"]),
        classes=tuple(meta["classes"]),
    )


def _plain(state: Any) -> Any:
    """Turn an NNX state into nested dictionaries of arrays."""
    if hasattr(state, "items"):
        return {key: _plain(value) for key, value in state.items()}
    return np.asarray(state)


def _same_shapes(found: Any, fresh: Any, *, named: str) -> None:
    import jax

    shapes = [
        {jax.tree_util.keystr(p): np.shape(leaf) for p, leaf in leaves}
        for leaves, _ in map(jax.tree_util.tree_flatten_with_path, (found, fresh))
    ]
    if shapes[0] != shapes[1]:
        raise SchemaError(
            f"init={named} has other layers than this network, whose images may be of"
            " another size or its head of another kind. Train it with the settings of"
            " that version."
        )


def triple(values: Any) -> Channels:
    """Return three figures, one a channel."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _shown(values: Any) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
