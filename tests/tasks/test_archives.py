from __future__ import annotations

import io
import json
import pickle
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from data_contracts.errors import SourceError, WorkspaceError
from tasks.listing import Listing
from tasks.sources import SourceSettings, list_source
from tests.tasks.pictures import encoded, photo
from tests.tasks.test_sources_boxes import coco, voc
from tests.tasks.test_sources_parquet import shard

FILES = {
    "top/train/cat/1.png": encoded(photo(9, 9, seed=1), "PNG"),
    "top/train/dog/1.png": encoded(photo(9, 9, seed=2), "PNG"),
    "top/test/cat/2.jpg": encoded(photo(9, 9, seed=3), "JPEG"),
    "top/readme.txt": b"hello",
    "__MACOSX/top/._1.png": b"junk",
}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    mode = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {
        f"inner/{path.relative_to(root)}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def settings(tmp_path: Path) -> SourceSettings:
    return SourceSettings(cache_dir=str(tmp_path / "cache"))


def problems(listing: Listing) -> dict[str, str]:
    return dict(zip(listing.path, listing.problem, strict=True))


ENDINGS = [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_archives_of_class_folders_are_read(
    tmp_path: Path, settings: SourceSettings, ending: str
) -> None:
    path = pack(tmp_path / f"a{ending}", FILES)
    found = pickle.loads(pickle.dumps(list_source(str(path), settings=settings)))
    assert found.path == sorted(found.path)
    assert dict(zip(found.path, found.label, strict=True)) == {
        "top/train/cat/1.png": "cat",
        "top/train/dog/1.png": "dog",
        "top/test/cat/2.jpg": "cat",
    }
    assert sorted(found.split) == ["test", "train", "train"]
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(found.read, list(range(3)) * 20))
    assert contents == [FILES[name] for name in found.path] * 20
    assert any("1 files skipped" in note for note in found.notes)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_manifests_and_boxes_in_archives_are_read(
    tmp_path: Path, settings: SourceSettings, ending: str
) -> None:
    text = b"path,label\ntrain/cat/1.png,tiger\n../readme.txt,x\n"
    path = pack(tmp_path / f"m{ending}", {**FILES, "top/manifest.csv": text})
    found = list_source(str(path), settings=settings)
    assert found.label == ["tiger", "x"]
    assert found.problem == ["", "escapes-root"]
    assert found.read(0) == FILES["top/train/cat/1.png"]
    for kind, make in (
        ("voc", voc),
        ("coco", lambda p: coco(p, "t.json", 3, folder="t")),
    ):
        root = tmp_path / kind
        root.mkdir()
        make(root)
        path = pack(tmp_path / f"{kind}{ending}", tree(root))
        found = list_source(str(path), settings=settings)
        assert (found.kind, len(found), set(found.problem)) == (kind, 3, {""})
        assert found.boxes[0]
        assert found.read(2).startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_shards_in_archives_are_read(
    tmp_path: Path, settings: SourceSettings, ending: str
) -> None:
    shard(tmp_path / "in/train-0.parquet", 5)
    shard(tmp_path / "in/test-0.parquet", 2, first=5)
    path = pack(tmp_path / f"s{ending}", tree(tmp_path / "in"))
    found = list_source(str(path), settings=settings)
    assert sorted(map(str, found.split)) == ["test"] * 2 + ["train"] * 5
    assert found.read(0) == encoded(photo(9, 9, seed=5), "PNG")


def test_a_compressed_tar_is_unpacked_once(
    tmp_path: Path, settings: SourceSettings
) -> None:
    path = pack(tmp_path / "a.tar.gz", FILES)
    list_source(str(path), settings=settings)
    (copy,) = (tmp_path / "cache/archives").iterdir()
    before = copy.stat().st_mtime_ns
    list_source(str(path), settings=settings)
    assert [p.stat().st_mtime_ns for p in copy.parent.iterdir()] == [before]


@pytest.mark.parametrize("ending", ENDINGS)
def test_members_that_escape_are_never_read_or_written(
    tmp_path: Path, settings: SourceSettings, ending: str
) -> None:
    picture = FILES["top/train/cat/1.png"]
    evil = ["../evil.png", "/evil.png", "a/../../evil.png", "C:\\evil.png"]
    path = pack(tmp_path / f"a{ending}", dict.fromkeys(["a/1.png", *evil], picture))
    found = list_source(str(path), settings=settings)
    assert sorted(found.problem) == [""] + ["escapes-root"] * 4
    for i, problem in enumerate(found.problem):
        if problem:
            with pytest.raises(OSError, match="leaves the archive"):
                found.read(i)
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


def test_links_in_archives_are_skipped_and_said(
    tmp_path: Path, settings: SourceSettings
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(pack(path, FILES), "a") as archive:
        link = tarfile.TarInfo("top/train/cat/passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = list_source(str(path), settings=settings)
    assert len(found) == 3
    assert any("1 links" in note for note in found.notes)


def test_bombs_are_refused(tmp_path: Path, settings: SourceSettings) -> None:
    bomb = {**FILES, "top/train/cat/bomb.png": bytes(20 << 20)}
    tight = settings.model_copy(update={"max_ratio": 100})
    zipped = list_source(str(pack(tmp_path / "a.zip", bomb)), settings=tight)
    assert problems(zipped)["top/train/cat/bomb.png"] == "bomb"
    with pytest.raises(SourceError, match=r"bomb.*max_archive_bytes"):
        list_source(str(pack(tmp_path / "a.tar.gz", bomb)), settings=tight)
    assert not list((tmp_path / "cache/archives").iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_archives_are_refused_or_their_members_fail(
    tmp_path: Path, settings: SourceSettings, ending: str
) -> None:
    path = pack(tmp_path / f"a{ending}", FILES)
    whole = path.read_bytes()
    for cut in (40, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:cut])
        # Either refused as a whole, or every member is right or cannot be read.
        with suppress(SourceError):
            found = list_source(str(path), settings=settings)
            for i, name in enumerate(found.path):
                with suppress(OSError):
                    assert found.read(i) == FILES[name]


def test_a_flipped_byte_in_a_zip_fails_its_checksum(
    tmp_path: Path, settings: SourceSettings
) -> None:
    path = pack(tmp_path / "a.zip", FILES)
    raw = bytearray(path.read_bytes())
    raw[120] ^= 0xFF
    path.write_bytes(raw)
    found = list_source(str(path), settings=settings)
    with pytest.raises(OSError, match=r"top/train/cat/1\.png"):
        found.read(found.path.index("top/train/cat/1.png"))


def test_two_archives_can_be_read_by_turns(
    tmp_path: Path, settings: SourceSettings
) -> None:
    names = ["top/train/cat/1.png", "top/train/dog/1.png"]
    one, two = (
        list_source(
            str(pack(tmp_path / f"{i}.zip", {"a.png": FILES[name]})), settings=settings
        )
        for i, name in enumerate(names)
    )
    for _ in range(2):
        assert one.read(0) == FILES[names[0]]
        assert two.read(0) == FILES[names[1]]


def test_encrypted_members_are_a_problem(
    tmp_path: Path, settings: SourceSettings
) -> None:
    path = pack(tmp_path / "a.zip", {"a/1.png": FILES["top/train/cat/1.png"]})
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    assert list_source(str(path), settings=settings).problem == ["encrypted"]


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = pack(tmp_path / "a.tar.gz", FILES)
    blocked = SourceSettings(cache_dir=str(tmp_path / "file"))
    with pytest.raises(WorkspaceError, match="cache_dir"):
        list_source(str(path), settings=blocked)


def test_a_gzip_that_is_no_tar_is_refused(
    tmp_path: Path, settings: SourceSettings
) -> None:
    import gzip

    (tmp_path / "x.gz").write_bytes(gzip.compress(json.dumps([1]).encode()))
    with pytest.raises(SourceError, match="cannot be read"):
        list_source(str(tmp_path / "x.gz"), settings=settings)


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(
    tmp_path: Path, settings: SourceSettings
) -> None:
    inner = pack(tmp_path / "labels.zip", {"readme.txt": b"hello"}).read_bytes()
    path = pack(tmp_path / "a.tar", FILES | {"top/labels.zip": inner})
    assert len(list_source(str(path), settings=settings).path) == 3


@pytest.mark.parametrize("name", ["manifest.csv", "labels.json"])
def test_a_table_that_is_a_bomb_is_never_unpacked(
    tmp_path: Path, settings: SourceSettings, name: str
) -> None:
    path = pack(tmp_path / "a.zip", {**FILES, name: b" " * (40 << 20)})
    modest = settings.model_copy(update={"max_ratio": 100})
    tracemalloc.start()
    found = list_source(str(path), settings=modest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.path) == 3
    assert peak < 20 << 20
