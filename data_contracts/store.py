"""Datasets on disk: Icechunk repositories, read and written by the layout."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import icechunk
import numpy as np
import zarr

from data_contracts.dataset import (
    COLUMN_CHUNK,
    COLUMNS,
    SCHEMA_VERSION,
    Array,
    check_column,
    check_images,
    chunk_rows,
)
from data_contracts.errors import SchemaError, WorkspaceError
from data_contracts.references import DatasetRef

icechunk.set_logs_filter("error")  # it warns that local commits want one writer


class Dataset:
    """Read access to one snapshot."""

    def __init__(self, ref: DatasetRef) -> None:
        self.ref = ref
        try:
            repository = open_repository(ref.uri)
            session = repository.readonly_session(snapshot_id=ref.snapshot)
        except icechunk.IcechunkError as error:
            if "snapshot" not in str(error):
                raise
            raise SchemaError(
                f"{ref.uri} holds no snapshot {ref.snapshot}: the dataset was replaced."
                " Bring the old one back, or use another name."
            ) from error
        self.group = zarr.open_group(session.store, mode="r")
        check_schema(self.group, uri=ref.uri)

    @classmethod
    def at(cls, uri: str, snapshot: str) -> Dataset:
        """Open a snapshot of which only the id is known."""
        nameless = DatasetRef(uri=uri, snapshot=snapshot, stage="", digest="", n=0)
        return cls(nameless)

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes: names, sources, lineage, provenance."""
        return dict(self.group.attrs)

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.images.shape[0]

    @property
    def images(self) -> zarr.Array[Any]:
        """The pixels, uint8 (n, h, w, 3), not yet read."""
        return cast("zarr.Array[Any]", self.group["images"])

    @property
    def mended(self) -> zarr.Array[Any]:
        """The pixels of images with salt and pepper, without it; zero elsewhere."""
        return cast("zarr.Array[Any]", self.group["mended"])

    @property
    def embeddings(self) -> zarr.Array[Any]:
        """What an encoder makes of each image, float32 (n, d), not yet read.

        Rows of files that could not be read are zero.
        """
        return cast("zarr.Array[Any]", self.group["embeddings"])

    @property
    def image_size(self) -> int:
        """Side of the stored square images, pixels."""
        return self.images.shape[1]

    @property
    def chunk(self) -> int:
        """Rows of pixels in one chunk."""
        return self.images.chunks[0]

    def names(self, kind: str) -> list[str]:
        """Return one list of names, such as `label_names`."""
        return list(cast("list[str]", self.attributes.get(kind, [])))

    def has(self, name: str) -> bool:
        """Whether the snapshot holds the column `name`."""
        return name in self.group

    def column(self, name: str, *, start: int = 0) -> Array:
        """Return the column `name`, whole or from the row `start`.

        Raises:
            SchemaError: The snapshot does not hold it.
        """
        if name not in self.group:
            raise SchemaError(
                f"{self.ref.uri} at stage {self.ref.stage!r} has no column {name!r}."
            )
        values = np.asarray(cast("zarr.Array[Any]", self.group[name])[start:])
        return values.astype(object) if COLUMNS[name].dtype == "str" else values

    def columns(self, *names: str) -> dict[str, Array]:
        """Return several whole columns."""
        return {name: self.column(name) for name in names}

    def take(self, rows: Array) -> Array:
        """Return the pixels of `rows` in that order, each chunk read once."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        order = np.argsort(rows, kind="stable")
        chunk_of = rows[order] // self.chunk
        for chunk in np.unique(chunk_of):
            here = order[chunk_of == chunk]
            start = int(chunk) * self.chunk
            block = np.asarray(self.images[start : start + self.chunk])
            out[here] = block[rows[here] - start]
        return out


class Writer:
    """Write access to a snapshot that is being built."""

    def __init__(self, group: zarr.Group, *, uri: str) -> None:
        self.group = group
        self.uri = uri

    @classmethod
    def of(cls, session: icechunk.Session, uri: str) -> Writer:
        """Write through `session` to the dataset at `uri`."""
        return cls(zarr.open_group(session.store, mode="a"), uri=uri)

    def write(self, **columns: Array) -> None:
        """Write whole columns, checked by the layout."""
        there = "images" in self.group
        n = cast("zarr.Array[Any]", self.group["images"]).shape[0] if there else None
        for name, values in columns.items():
            length = n if COLUMNS[name].axis == "image" else None
            self._replace(name, check_column(name, np.asarray(values), length=length))

    def _replace(self, name: str, values: Array) -> None:
        column = COLUMNS[name]
        dtype: Any = str if column.dtype == "str" else column.dtype
        chunks = (COLUMN_CHUNK, *values.shape[1:])
        if name in self.group:
            array = cast("zarr.Array[Any]", self.group[name])
            if _grows_into(array, values, chunks=chunks):
                _rewrite(array, values)
                return
        array = self.group.create_array(
            name,
            shape=values.shape,
            chunks=chunks,
            dtype=dtype,
            overwrite=True,
        )
        if len(values):
            array[:] = values

    def allocate(self, n: int, *, size: int) -> None:
        """Make room for `n` images, keeping those that are there."""
        shape, chunks = (n, size, size, 3), (chunk_rows(size), size, size, 3)
        for name, packing in (("images", None), ("mended", "auto")):
            if name in self.group:
                cast("zarr.Array[Any]", self.group[name]).resize(shape)
                continue
            compressors: Any = packing
            self.group.create_array(
                name,
                shape=shape,
                chunks=chunks,
                dtype="uint8",
                compressors=compressors,
            )

    def write_images(self, start: int, images: Array) -> None:
        """Write `images` to the rows from `start`."""
        array = cast("zarr.Array[Any]", self.group["images"])
        array[start : start + len(images)] = check_images(images, size=array.shape[1])

    def allocate_embeddings(self, n: int, *, width: int) -> zarr.Array[Any]:
        """Make room for `n` embeddings, in place of earlier ones; return the array."""
        return self.group.create_array(
            "embeddings",
            shape=(n, width),
            chunks=(COLUMN_CHUNK, width),
            dtype="float32",
            overwrite=True,
        )

    def annotate(self, **attributes: Any) -> None:
        """Set group attributes."""
        self.group.attrs.update(attributes)


def _grows_into(
    array: zarr.Array[Any], values: Array, *, chunks: tuple[int, ...]
) -> bool:
    """Whether `values` may stand in `array` as it was laid out, rows added."""
    same_kind = values.dtype == object or array.dtype == values.dtype
    same_width = array.shape[1:] == values.shape[1:] and array.chunks == chunks
    return same_kind and same_width and array.shape[0] <= len(values)


def _rewrite(array: zarr.Array[Any], values: Array) -> None:
    """Write the chunks of a column that differ from what stands there.

    What an era adds then touches its own chunks only, and what is known of the others
    stays true (`data_contracts.changes`).
    """
    before, step = array.shape[0], array.chunks[0]
    array.resize(values.shape)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        if start + len(part) > before or not _equal(array[start : start + step], part):
            array[start : start + len(part)] = part


def _equal(there: Any, part: Array) -> bool:
    """Whether two pieces of a column are the same; a missing number equals another."""
    return np.array_equal(np.asarray(there), part, equal_nan=part.dtype.kind == "f")


def check_schema(group: zarr.Group, *, uri: str) -> None:
    """Refuse a dataset that a newer version wrote.

    Raises:
        SchemaError: The schema is newer than this version knows.
    """
    written = int(cast("int", group.attrs.get("schema_version", SCHEMA_VERSION)))
    if written > SCHEMA_VERSION:
        raise SchemaError(
            f"{uri} was written with dataset schema {written}; this version reads up to"
            f" {SCHEMA_VERSION}. Upgrade Sightline, or use another workspace."
        )


def holds_dataset(uri: str) -> bool:
    """Whether there is a dataset at the folder `uri`."""
    # Icechunk would make the folder, and panic where it may not.
    with storage_errors(uri):
        there = Path(uri).is_dir()
    return there and icechunk.Repository.exists(icechunk.local_filesystem_storage(uri))


def open_repository(uri: str, *, create: bool = False) -> icechunk.Repository:
    """Open the dataset at the folder `uri`.

    Raises:
        SchemaError: There is no dataset and `create` is false.
        WorkspaceError: The folder cannot be written.
    """
    if "://" in uri:
        raise SchemaError(f"Datasets live in a local folder; got {uri!r}.")
    storage = icechunk.local_filesystem_storage(uri)
    if holds_dataset(uri):
        return icechunk.Repository.open(storage)
    if not create:
        raise SchemaError(f"There is no dataset at {uri}. Give the folder of one.")
    with storage_errors(uri):
        Path(uri).mkdir(parents=True, exist_ok=True)
        return icechunk.Repository.create(storage)


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn a machine's refusals into `WorkspaceError`s that say what to do."""
    try:
        yield
    except (OSError, icechunk.IcechunkError) as error:
        problem = refusal(error)
        if problem is None:
            raise
        raise WorkspaceError(
            f"{problem} while writing {where}. Nothing half-written is visible; the"
            " same command goes on from the last finished stage."
        ) from error


def refusal(error: BaseException) -> str | None:
    """Name the machine's refusal behind `error`, or None if it is something else."""
    text, number = str(error), getattr(error, "errno", None)
    if number in {errno.ENOSPC, errno.EDQUOT} or "os error 28" in text:
        return "The disk is full"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS} or "os error 13" in text:
        return "No permission"
    if "os error 30" in text:
        return "The disk is read-only"
    return None


def find_stage(uri: str, stage: str, *, identity: str) -> DatasetRef | None:
    """Return the finished stage with this identity, if there is one."""
    repository = open_repository(uri, create=True)
    tag = f"{stage}-{identity}"
    if tag not in repository.list_tags():
        return None
    snapshot = repository.lookup_tag(tag)
    session = repository.readonly_session(snapshot_id=snapshot)
    group = zarr.open_group(session.store, mode="r")
    check_schema(group, uri=uri)
    n = cast("zarr.Array[Any]", group["images"]).shape[0]
    return DatasetRef(uri=uri, snapshot=snapshot, stage=stage, digest=identity, n=n)


def find_snapshots(uri: str) -> list[DatasetRef]:
    """Return every finished stage of the dataset at `uri`, by stage name."""
    tags: Sequence[str] = sorted(open_repository(uri).list_tags())
    parts = [tag.rsplit("-", 1) for tag in tags]
    found = [find_stage(uri, stage, identity=identity) for stage, identity in parts]
    return [ref for ref in found if ref is not None]
