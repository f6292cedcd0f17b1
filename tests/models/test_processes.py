"""Two processes train as one with two devices, and only the first writes."""

import dataclasses
import json
import multiprocessing
import socket

import jax
import numpy as np

from models.checkpoint import restore_epoch, tree_digest
from models.processes import agree, join, own_share, whole
from tests.models.test_fit import SETTINGS, SOURCE, TRAIN, abstract, metrics, read, run


def train(folder, *, count, index, address, resident):
    """Train on two devices in all, and tell which rows were read."""
    jax.config.update("jax_num_cpu_devices", 2 // count)
    if count > 1:
        join(address, count=count, index=index)
    from models.steps import device_mesh

    seen = []

    def watched(rows):
        seen.append(rows)
        return read(rows)

    source = dataclasses.replace(SOURCE, resident=resident, read=watched)
    often = dataclasses.replace(SETTINGS, checkpoint_minutes=0)
    result = run(folder, source=source, mesh=device_mesh(), settings=often)
    told = [tree_digest((result.params, result.stats)), len(np.concatenate(seen))]
    (folder / f"told-{count}-{index}.json").write_text(json.dumps(told))


def start(context, folder, *, count, resident):
    """Start `count` processes that train together."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    more = {"count": count, "address": address, "resident": resident}
    children = [
        context.Process(target=train, args=(folder,), kwargs=more | {"index": index})
        for index in range(count)
    ]
    for child in children:
        child.start()
    return children


def told(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("told-*"))]


def test_two_processes_end_in_the_bits_of_one_with_two_devices(tmp_path):
    context = multiprocessing.get_context("spawn")
    children = [
        *start(context, tmp_path / "two", count=2, resident=False),
        *start(context, tmp_path / "one", count=1, resident=True),
    ]
    for child in children:
        child.join(120)
    ends = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert ends == [0, 0, 0]
    [one], two = told(tmp_path / "one"), told(tmp_path / "two")
    assert two[0][0] == two[1][0] == one[0]
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")
    ends = [
        restore_epoch(tmp_path / name, abstract(), epoch=4).state
        for name in ("one", "two")
    ]
    assert tree_digest(ends[0]) == tree_digest(ends[1])
    # Four epochs and their validation, shared but for what fills a batch up.
    epochs = 4 * TRAIN + 4 * 21
    assert epochs <= two[0][1] + two[1][1] < 1.2 * epochs


def test_one_process_holds_the_whole_batch():
    assert own_share(8, None) == slice(None)
    assert agree(0.1) == 0.1
    np.testing.assert_array_equal(whole(jax.numpy.arange(3)), np.arange(3))
