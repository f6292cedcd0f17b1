"""A traced run trains the same bits, and its account adds up."""

import dataclasses
import json

import pytest

from models.step_profile import peak_of, sources_of
from tests.models.test_fit import SETTINGS, bits, run


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    return run(folder, settings=dataclasses.replace(SETTINGS, profile=3)), folder


@pytest.fixture(scope="module")
def account(traced):
    return json.loads((traced[1] / "profile" / "account.json").read_text())


def test_a_trace_changes_no_bit(traced, tmp_path):
    assert bits(traced[0]) == bits(run(tmp_path))
    assert not (tmp_path / "profile").exists()


def test_an_account_tells_time_memory_and_operations(account):
    assert account["traced"] == 3
    assert account["images"] == [15, 8, 8, 3]
    assert account["usual_ms"] > 0
    assert 0 <= account["stall"] < 1
    assert account["compile_seconds"] > 0
    assert account["flops"] > 1e5
    assert account["peak"] is None
    assert 0 < account["memory"]["inputs"] < account["memory"]["planned"]
    shares = [row["share"] for row in account["operations"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1.0001
    assert any("conv" in row["name"] + row["source"] for row in account["operations"])


def test_a_run_shorter_than_its_trace_tells_what_there_was(tmp_path):
    few = dataclasses.replace(SETTINGS, profile=100)
    run(tmp_path, settings=few)
    found = json.loads((tmp_path / "profile" / "account.json").read_text())
    assert found["traced"] == 17  # of 20 steps, three warm up


def test_operations_are_named_by_where_they_come_from():
    class Program:
        def as_text(self):
            return """HloModule jit_local, x
  %fusion.3 = f32[2]{0} fusion(%a), metadata={op_name="jit(local)/jvp(n)/dot"}
  ROOT %add.1 = f32[2]{0} add(%a, %b), metadata={op_name="jit(l)/transpose(x)/mul"}
"""

    assert sources_of(Program()) == {
        "fusion.3": "forward, dot",
        "add.1": "backward, mul",
    }


def test_the_peak_of_a_device_goes_by_its_kind():
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of("cpu") is None
