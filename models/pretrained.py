"""Read weight files as others write them: .safetensors, and PyTorch's .pth and .pt.

Nothing in a file is run. Of a pickle, tensors, ordered and plain dictionaries, lists,
numbers and text are rebuilt by code of this module; any other name in it is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import SchemaError, UsageError

Tensors = dict[str, NDArray[Any]]
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# A header lists names and shapes; the largest public ones stay below 1 MB.
MOST_HEADER = 64 << 20
# bfloat16 is the upper half of a float32; NumPy has no type of its own for it.
BFLOAT16 = "bfloat16"
SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# Keys under which training scripts put the weights beside other things.
WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher")


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a file.

    Attributes:
        tensors: By the name that the file gives them.
        metadata: What a safetensors header says beside them.
        sha256: Of the file.
    """

    tensors: Tensors
    metadata: dict[str, str]
    sha256: str


def read_weights(path: Path) -> Weights:
    """Read the tensors of a weights file.

    Args:
        path: A file that ends in .safetensors, .pth, .pt or .bin.

    Raises:
        UsageError: There is no such file, or it is of another kind.
        SchemaError: It is damaged, or holds more than tensors.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"Weights are read from {', '.join(SUFFIXES)} files; came {path}."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Weights {path} cannot be read: {error.strerror}. Name a file that exists."
        ) from error
    try:
        if path.suffix == ".safetensors":
            tensors, metadata = parse_safetensors(data)
        else:
            tensors, metadata = parse_torch(data), {}
    except SchemaError as error:
        raise SchemaError(f"Weights {path}: {error}") from error
    return Weights(tensors, metadata, hashlib.sha256(data).hexdigest())


def parse_safetensors(data: bytes) -> tuple[Tensors, dict[str, str]]:
    """Return tensors and metadata of a file's bytes.

    The format is 8 bytes of the header's length, a JSON header, and the bytes of all
    tensors side by side.

    Raises:
        SchemaError: It is cut short, or the header does not fit the bytes after it.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MOST_HEADER, len(data) - 8):
        raise _damaged("the header is longer than the file")
    try:
        header = json.loads(data[8 : 8 + length].decode())
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        body, place, tensors = memoryview(data)[8 + length :], 0, {}
        for name, entry in entries:
            start, end = entry["data_offsets"]
            if start != place:
                raise _damaged(f"{name} starts at byte {start}, not {place}")
            tensors[name] = _of_bytes(
                name, body[start:end], SAFETENSORS.get(entry["dtype"]), entry
            )
            place = end
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(f"its header cannot be read ({error!r})") from error
    if place != len(body):
        raise _damaged(f"{len(body) - place} bytes belong to no tensor")
    return tensors, metadata


def _of_bytes(
    name: str, raw: memoryview, kind: str | None, entry: Mapping[str, Any]
) -> NDArray[Any]:
    if kind is None:
        raise SchemaError(
            f"{name} is of type {entry['dtype']}, which is not read. Convert the file"
            " to float32, float16 or bfloat16."
        )
    shape = tuple(int(side) for side in entry["shape"])
    size = 2 if kind == BFLOAT16 else np.dtype(kind).itemsize
    count = 1
    for side in shape:
        count *= side
    if min(shape, default=0) < 0 or count * size != len(raw):
        raise _damaged(f"{name} has {len(raw)} bytes, its shape {shape} asks for other")
    return _typed(raw, kind).reshape(shape)


def _typed(raw: memoryview | bytes, kind: str) -> NDArray[Any]:
    if kind != BFLOAT16:
        return np.frombuffer(raw, kind)
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def _damaged(what: str) -> SchemaError:
    return SchemaError(f"the file is damaged: {what}. Fetch it again.")


def parse_torch(data: bytes) -> Tensors:
    """Return the tensors of the bytes that `torch.save` wrote of a state dict.

    Raises:
        SchemaError: It is damaged, older than PyTorch 1.6, or holds other objects.
    """
    if not data.startswith(b"PK"):
        raise SchemaError(
            "this is not the zip archive that PyTorch writes since 1.6. Save it anew"
            " with torch.save, or as .safetensors."
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _state_dict(_Unpickler.of(archive).load())
    except SchemaError:
        raise
    # A forged pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error


def _state_dict(found: Any) -> Tensors:
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise SchemaError("it holds no dictionary of tensors. Save model.state_dict().")
    other = [k for k, v in found.items() if not isinstance(v, np.ndarray)]
    if other or not all(isinstance(name, str) for name in found):
        raise SchemaError(
            f"{other[:1] or 'a key'} is no tensor. Save model.state_dict() alone."
        )
    return dict(found)


class _Unpickler(pickle.Unpickler):
    """Rebuild tensors of a PyTorch archive by our own code."""

    @classmethod
    def of(cls, archive: zipfile.ZipFile) -> _Unpickler:
        """Open the one pickle of `archive`."""
        files = {info.filename: info for info in archive.infolist()}
        inner = [name for name in files if name.endswith("/data.pkl")]
        if len(inner) != 1:
            raise _damaged("there is not one data.pkl in it")
        stem = inner[0].removesuffix("data.pkl")
        if files[inner[0]].file_size > MOST_HEADER:
            raise _damaged("its list of tensors is too long")
        order = f"{stem}byteorder"
        if order in files and archive.read(order) != b"little":
            raise SchemaError("its bytes are big-endian. Save it on another machine.")
        listed = archive.read(inner[0])
        for code, place, _ in pickletools.genops(listed):
            # The memo is an array: a place far out would fill the memory.
            if code.name in ("PUT", "LONG_BINPUT") and int(place) > len(listed):
                raise _damaged(f"its list of tensors names a place {place}")
        self = cls(io.BytesIO(listed))
        self.archive, self.files, self.stem = archive, files, stem
        self.read: dict[str, NDArray[Any]] = {}
        return self

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the pickle, none of it from its module.

        Functions are made anew, so that a pickle that changes one changes no other.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in (
            "_rebuild_tensor_v2",
            "_rebuild_tensor",
        ):
            return lambda *given: _tensor(*given)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in STORAGES:
            return _Kind(name)
        raise SchemaError(
            f"it holds {module}.{name}, which is no tensor and is not loaded. Save"
            " model.state_dict() alone."
        )

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """Return the flat numbers that a tensor is a part of."""
        _, kind, key, _, count = pid
        name = f"{self.stem}data/{key}"
        if key not in self.read:
            size = self.files[name].file_size
            width = 2 if kind.dtype == BFLOAT16 else np.dtype(kind.dtype).itemsize
            if self.files[name].compress_type != zipfile.ZIP_STORED:
                raise _damaged("its tensors are compressed, which PyTorch never does")
            if size != count * width:
                raise _damaged(f"storage {key} has {size} bytes for {count} numbers")
            self.read[key] = _typed(self.archive.read(name), kind.dtype)
        return self.read[key]


class _Kind:
    """Stands for a storage class of PyTorch."""

    def __init__(self, name: str) -> None:
        self.dtype = STORAGES[name]


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> NDArray[Any]:
    """Copy one tensor out of its storage, within its bounds."""
    del rest  # whether it had gradients, and hooks
    if not isinstance(storage, np.ndarray) or len(shape) != len(strides):
        raise _damaged("a tensor has no storage")
    if min((offset, *shape, *strides)) < 0:
        raise _damaged("a tensor has a negative size")
    count, last = 1, offset
    for side, stride in zip(shape, strides, strict=True):
        count *= side
        last += max(0, side - 1) * stride
    if count and (last >= len(storage) or count > len(storage)):
        raise _damaged("a tensor reaches beyond its storage")
    if not count:
        return np.zeros(shape, storage.dtype)
    view = np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [stride * storage.itemsize for stride in strides]
    )
    return view.copy()
