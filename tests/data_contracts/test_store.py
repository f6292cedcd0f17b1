import numpy as np
import pytest

from data_contracts.config import Settings
from data_contracts.dataset import check_column, check_images
from data_contracts.errors import SchemaError
from data_contracts.store import Dataset, find_snapshots, open_repository
from tasks.stage import run_stage
from tests.datasets import NoSettings, make_dataset


def test_columns_come_back_as_written(tmp_path):
    ref = make_dataset(
        tmp_path, 5, text=np.array(["", "é", "<b>", "日本", "x"], object)
    )
    dataset = Dataset(ref)
    assert dataset.n == ref.n == 5
    assert list(dataset.column("text")) == ["", "é", "<b>", "日本", "x"]
    assert dataset.column("label").dtype == np.int32
    assert dataset.names("label_names") == ["a", "b"]


def test_images_are_read_in_any_order(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (600, 8, 8, 3), np.uint8)
    dataset = Dataset(make_dataset(tmp_path, 600, images=images))
    rows = np.array([599, 0, 255, 256, 3, 3])
    np.testing.assert_array_equal(dataset.take(rows), images[rows])


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("nope", np.zeros(1), "no column 'nope'"),
        ("label", np.zeros(2), "wants int32, got float64"),
        ("label", np.array([-2]), "row 0 has -2"),
        ("mean", np.array([np.nan]), "row 0 has nan"),
        ("boxes", np.zeros((2, 3), np.float32), "wants shape"),
        ("split", np.array([0, 4]), "row 1 has 4"),
    ],
)
def test_a_wrong_column_is_refused(name, values, said):
    with pytest.raises(SchemaError, match=said):
        check_column(name, values)


def test_wrong_pixels_are_refused():
    with pytest.raises(SchemaError, match="uint8"):
        check_images(np.zeros((1, 8, 8, 3), np.float32))


def test_a_stage_is_built_once(tmp_path):
    source, calls = make_dataset(tmp_path), []

    def build(build):
        calls.append(1)
        build.writer.write(keep=np.ones(12, bool))

    def run():
        return run_stage(
            "clean",
            build,
            uri=source.uri,
            parent=source,
            version=1,
            settings=NoSettings(),
        )

    assert run() == run()
    assert len(calls) == 1


class Radius(Settings):
    """Settings that change."""

    radius: int = 1


def test_other_settings_make_another_snapshot(tmp_path):
    source = make_dataset(tmp_path)
    refs = [
        run_stage(
            "clean",
            lambda build: build.writer.write(keep=np.ones(12, bool)),
            uri=source.uri,
            parent=source,
            version=1,
            settings=Radius(radius=radius),
        )
        for radius in (1, 2)
    ]
    assert refs[0].digest != refs[1].digest
    assert [entry["settings"] for entry in Dataset(refs[1]).attributes["lineage"]] == [
        {},
        {"radius": 2},
    ]
    assert len(find_snapshots(source.uri)) == 3


def test_a_failed_stage_leaves_nothing_visible(tmp_path):
    source = make_dataset(tmp_path)

    def build(build):
        build.writer.write(keep=np.zeros(12, bool))
        raise RuntimeError("power cut")

    def run(build):
        return run_stage(
            "clean",
            build,
            uri=source.uri,
            parent=source,
            version=1,
            settings=NoSettings(),
        )

    with pytest.raises(RuntimeError):
        run(build)
    assert [ref.stage for ref in find_snapshots(source.uri)] == ["ingest"]
    again = run(lambda build: build.writer.write(keep=np.ones(12, bool)))
    assert Dataset(again).column("keep").all()
    assert not Dataset(source).has("keep")


def test_a_newer_workspace_is_refused(tmp_path):
    def build(build):
        build.writer.allocate(1, size=8)

    ref = make_dataset(tmp_path)
    repository = open_repository(ref.uri)
    repository.create_branch("newer", ref.snapshot)
    session = repository.writable_session("newer")
    import zarr

    zarr.open_group(session.store).attrs["schema_version"] = 99
    newer = ref.model_copy(update={"snapshot": session.commit("newer")})
    with pytest.raises(SchemaError, match=r"schema 99.*Upgrade"):
        Dataset(newer)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="no dataset at"):
        open_repository(str(tmp_path))
