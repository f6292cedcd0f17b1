"""Weight files of others: read where they are whole, refused by name where not."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import SchemaError, UsageError
from models.backbones import build, create_model
from models.pretrained import (
    _Unpickler,
    parse_safetensors,
    parse_torch,
    read_weights,
)
from models.transfer import import_weights
from tests.models import miniatures

FOLDER = Path(__file__).parent / "golden"


def safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(start=0, end=4, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_safetensors_keep_names_shapes_and_metadata():
    numbers = np.arange(6, dtype="<f4")
    data = safetensors(
        {"__metadata__": {"license": "mit"}, "a": entry(0, 24, (2, 3))},
        numbers.tobytes(),
    )
    tensors, metadata = parse_safetensors(data)
    np.testing.assert_array_equal(tensors["a"], numbers.reshape(2, 3))
    assert metadata == {"license": "mit"}


def test_bfloat16_becomes_float32():
    upper = (np.array([1.5, -2], "<f4").view("<u4") >> 16).astype("<u2")
    data = safetensors({"a": entry(0, 4, (2,), "BF16")}, upper.tobytes())
    assert parse_safetensors(data)[0]["a"].tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "longer than the file"),
        (b"\xff" * 8 + b"{}", "longer than the file"),
        (safetensors(b"{"), "header cannot be read"),
        (safetensors(b"[" * 100_000), "header cannot be read"),
        (safetensors(b"[]"), "header cannot be read"),
        (safetensors({"__metadata__": [1]}), "header cannot be read"),
        (safetensors({"a": {"dtype": "F32"}}), "header cannot be read"),
        (safetensors({"a": entry()}, b""), "a has 0 bytes"),
        (safetensors({"a": entry()}, bytes(5)), "1 bytes belong to no tensor"),
        (safetensors({"a": entry(4, 8)}, bytes(8)), "a starts at byte 4, not 0"),
        (safetensors({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)), "starts at"),
        (safetensors({"a": entry(0, -4)}, bytes(4)), "damaged"),
        (safetensors({"a": entry(shape=(-1,))}, bytes(4)), "asks for other"),
        (safetensors({"a": entry(shape=(1 << 62, 4))}, bytes(4)), "asks for other"),
        (safetensors({"a": entry(dtype="F8_E4M3")}, bytes(4)), "type F8_E4M3"),
    ],
)
def test_safetensors_that_cannot_be_right_are_refused(data, said):
    with pytest.raises(SchemaError, match=said):
        parse_safetensors(data)


class Evil:
    def __reduce__(self):
        return print, ("run by a pickle",)


class Call:
    """Pickle a call by name, as PyTorch's own classes do."""

    def __init__(self, function, *arguments):
        self.pair = function, arguments

    def __reduce__(self):
        return self.pair


class Storage:
    def __init__(self, kind, key, count):
        self.pid = ("storage", kind, key, "cpu", count)


class Pickler(pickle._Pickler):
    """Write the global names and storages of PyTorch without having it."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, str) and obj.startswith("global:"):
            module, _, name = obj.removeprefix("global:").rpartition(".")
            self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")
        elif isinstance(obj, Call):
            self.save(obj.pair[0])
            self.save(obj.pair[1])
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


FLOAT = "global:torch.FloatStorage"


def tensor(
    shape=(2,), strides=(1,), *, offset=0, kind=FLOAT, count=4, key="0", extra=()
):
    return Call(
        "global:torch._utils._rebuild_tensor_v2",
        Storage(kind, key, count),
        *(offset, shape, strides, False, collections.OrderedDict(), *extra),
    )


def archive(found, *, files=None, compress=zipfile.ZIP_STORED):
    text = io.BytesIO()
    Pickler(text, protocol=2).dump(found)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        target.writestr("archive/data.pkl", text.getvalue())
        for name, data in (files or {"0": np.arange(4, dtype="<f4")}).items():
            target.writestr(
                f"archive/data/{name}", bytes(memoryview(data).cast("B")), compress
            )
    return out.getvalue()


def test_a_state_dict_of_pytorch_is_read_with_its_strides():
    data = archive({"a": tensor((2, 2), (1, 2)), "b": tensor((1,), (1,), offset=3)})
    found = parse_torch(data)
    assert found["a"].tolist() == [[0, 2], [1, 3]]
    assert found["b"].tolist() == [3]


def test_weights_beside_other_things_are_found():
    data = archive({"epoch": 3, "state_dict": {"a": tensor()}, "best": 0.5})
    assert parse_torch(data)["a"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x02}q\x00.", "not the zip archive"),
        (b"PK nothing else", "damaged"),
        (archive({"a": Call("global:builtins.eval", "1")}), "builtins.eval"),
        (archive({"a": Call("global:os.system", "true")}), "os.system"),
        (archive({"a": Call("global:argparse.Namespace")}), "argparse.Namespace"),
        (archive(Call("global:torch.load", "x")), "torch.load"),
        (archive({"a": 3}), "is no tensor"),
        (archive({3: tensor()}), "is no tensor"),
        (archive([tensor()]), "no dictionary"),
        (archive({}), "no dictionary"),
        (archive({"a": tensor(count=5)}), "16 bytes for 5 numbers"),
        (archive({"a": tensor(key="1")}), "damaged"),
        (archive({"a": tensor((5,))}), "beyond its storage"),
        (archive({"a": tensor((2,), (4,))}), "beyond its storage"),
        (archive({"a": tensor((2,), (-1,), offset=3)}), "negative"),
        (archive({"a": tensor((1 << 40,), (0,))}), "beyond its storage"),
        (archive({"a": tensor((2, 2), (1,))}), "no storage"),
        (archive({"a": tensor()}, compress=zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_pickles_of_anything_but_tensors_are_refused(data, said):
    with pytest.raises(SchemaError, match=said):
        parse_torch(data)


def test_a_place_far_out_in_the_memo_fills_no_memory():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        far = (1 << 31).to_bytes(4, "little")
        target.writestr("archive/data.pkl", b"\x80\x02}r" + far + b".")
    with pytest.raises(SchemaError, match="names a place 2147483648"):
        parse_torch(out.getvalue())


def test_a_pickle_that_changes_a_function_changes_its_own():
    for name in ("_rebuild_parameter", "_rebuild_tensor_v2"):
        one, other = (
            _Unpickler.find_class(None, "torch._utils", name) for _ in range(2)
        )
        assert one is not other


def test_a_pickle_runs_nothing(capsys):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        target.writestr("archive/data.pkl", pickle.dumps(Evil()))
    with pytest.raises(SchemaError, match=r"builtins.print|__builtin__.print"):
        parse_torch(out.getvalue())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["vit.safetensors", "mobilenetv3.pth"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_called_damaged(name, share, tmp_path):
    data = (FOLDER / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SchemaError, match=str(path)):
        read_weights(path)


def test_flipped_bytes_of_a_pickle_end_in_our_errors():
    data = (FOLDER / "mobilenetv3.pth").read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, 12_000, 60):
        broken = bytearray(data)
        broken[place] ^= int(random.integers(1, 256))
        with contextlib.suppress(SchemaError):
            parse_torch(bytes(broken))


def test_no_file_and_no_such_kind_say_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_weights(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="are read from"):
        read_weights(tmp_path / "a.h5")


KEY = "vit.encoder.layer.0.attention.attention.key.weight"
POSITIONS = "vit.embeddings.position_embeddings"


def vit(tensors, *, head=False, classes=miniatures.CLASSES):
    model = build(miniatures.VIT, num_classes=classes, rngs=nnx.Rngs(0))
    return model, import_weights(model, tensors, head=head)


@pytest.fixture
def tensors():
    return dict(read_weights(FOLDER / "vit.safetensors").tensors)


def test_a_head_of_other_classes_is_left_fresh(tensors):
    model, found = vit(tensors, head=True, classes=7)
    assert not found.head
    np.testing.assert_array_equal(
        found.params["head"]["kernel"], model.head.kernel[...]
    )
    assert not np.array_equal(found.params["norm"]["scale"], np.ones(18))


def test_a_head_stays_fresh_unless_it_is_asked_for(tensors):
    model, found = vit(tensors)
    np.testing.assert_array_equal(
        found.params["head"]["kernel"], model.head.kernel[...]
    )


def test_weights_do_not_depend_on_the_order_of_a_file(tensors):
    one, other = vit(tensors)[1], vit(dict(reversed(tensors.items())))[1]
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(extra=np.zeros(3, "f4")), "extra has no place"),
        (lambda t: t.pop("vit.layernorm.weight"), "norm/scale is missing"),
        (
            lambda t: t.pop(KEY),
            r"blocks/0/attention/qkv/kernel is \(18, 36\)",
        ),
        (
            lambda t: t.update({"vit.layernorm.bias": np.zeros(4, "f4")}),
            r"norm/bias is \(4,\), this network's is \(18,\)",
        ),
        (
            lambda t: t.update({"vit.layernorm.bias": np.zeros(18, "i8")}),
            "vit.layernorm.bias is int64",
        ),
        (
            lambda t: t.update({"vit.layernorm.bias": np.full(18, np.nan, "f4")}),
            "not finite",
        ),
        (
            lambda t: t.update({KEY: np.zeros((18, 4), "f4")}),
            "parts of blocks/0/attention/qkv/kernel are",
        ),
        (
            lambda t: t.update({KEY: np.zeros((18, 18, 3), "f4")}),
            "expected a dense layer",
        ),
        (
            lambda t: t.update({POSITIONS: np.zeros((), "f4")}),
            r"positions is \(\), this network's is",
        ),
        (
            lambda t: t.update({POSITIONS: np.zeros((2, 0), "f4")}),
            r"positions is \(0,\), this network's is",
        ),
        (
            lambda t: t.update({"layernorm.bias": np.zeros(18, "f4")}),
            "which another tensor has filled",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, said, tensors):
    change(tensors)
    with pytest.raises(SchemaError, match=said):
        vit(tensors)


def test_weights_of_another_family_are_refused():
    tensors = read_weights(FOLDER / "resnet.safetensors").tensors
    with pytest.raises(UsageError, match="torchvision or timm or huggingface"):
        vit(tensors)


def test_sightlines_own_networks_have_no_import(tensors):
    model = create_model("small", num_classes=3, image_size=32, seed=0)
    with pytest.raises(UsageError, match="Sightline's own"):
        import_weights(model, tensors, head=False)


def test_positions_of_another_grid_are_fitted(tensors):
    shape = dataclasses.replace(miniatures.VIT, grid=6)
    model = build(shape, num_classes=3, rngs=nnx.Rngs(0))
    found = import_weights(model, tensors, head=False)
    assert found.params["positions"].shape == (37, 18)
    token = tensors["vit.embeddings.position_embeddings"][0, 0].astype("f4")
    np.testing.assert_array_equal(found.params["positions"][0], token)
