"""Array rules read the pixels that nobody checked before, and no others."""

import numpy as np
import pytest

from data_contracts.contracts import load_contract
from data_contracts.store import Dataset
from tasks import check_chunks as checking
from tasks.check_chunks import check_chunks
from tasks.stage import run_stage
from tests.datasets import NoSettings, make_dataset, make_era, rewrite

N = 512  # two chunks of pixels


@pytest.fixture
def contract():
    return load_contract("ingested")


@pytest.fixture
def reads(monkeypatch):
    """Names of the first row of every chunk that is checked."""
    seen = []
    check = checking.check_arrays

    def spy(rules, arrays, names):
        seen.append(names[0])
        return check(rules, arrays, names)

    monkeypatch.setattr(checking, "check_arrays", spy)
    return seen


def found(contract, source):
    return {f.rule: f for f in check_chunks(contract, Dataset(source))}


def test_growth_reads_the_new_chunk_alone(tmp_path, contract, reads):
    first = make_dataset(tmp_path, N, size=8)
    check_chunks(contract, Dataset(first))
    assert len(reads) == 2
    reads.clear()
    later = found(contract, make_era(first, 10))
    assert reads == ["000.png"], "the paths of the new rows repeat the first"
    assert later["pixels are RGB bytes"].n_rows == N + 10


def test_a_column_that_changed_has_its_chunk_checked_again(tmp_path, contract, reads):
    source = make_dataset(tmp_path, N, size=8)
    check_chunks(contract, Dataset(source))
    reads.clear()
    label = Dataset(source).column("label")
    label[300] = -1
    check_chunks(contract, Dataset(rewrite(source, "clean", label=label)))
    assert reads == ["256.png"]


def test_pixels_that_changed_are_checked_again(tmp_path, contract, reads):
    source = make_dataset(tmp_path, N, size=8)
    check_chunks(contract, Dataset(source))
    reads.clear()
    other = run_stage(
        "denoise",
        lambda build: build.writer.write_images(0, np.zeros((256, 8, 8, 3), np.uint8)),
        uri=source.uri,
        parent=source,
        version=1,
        settings=NoSettings(),
    )
    check_chunks(contract, Dataset(other))
    assert reads == ["000.png"]


def test_another_contract_checks_for_itself(tmp_path, contract, reads):
    source = make_dataset(tmp_path, N, size=8)
    check_chunks(contract, Dataset(source))
    reads.clear()
    check_chunks(contract.model_copy(update={"sha256": "0" * 64}), Dataset(source))
    assert len(reads) == 2


def test_a_branch_of_the_same_parent_shares_what_is_known(tmp_path, contract, reads):
    source = make_dataset(tmp_path, N, size=8)
    one = rewrite(source, "clean", mean=np.full(N, 3.0))
    check_chunks(contract, Dataset(one))
    reads.clear()
    check_chunks(contract, Dataset(rewrite(source, "split", mean=np.full(N, 4.0))))
    assert reads == []
