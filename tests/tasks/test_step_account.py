"""The page and the few lines on what a training step spends."""

import json

from tasks.step_account import gist, render, size, tell_account

ACCOUNT = {
    "devices": 1,
    "device": "NVIDIA H100 80GB HBM3",
    "traced": 8,
    "images": [64, 32, 32, 3],
    "data_ms": 1.0,
    "host_ms": 2.0,
    "device_ms": 7.0,
    "usual_ms": 7.5,
    "stall": 0.02,
    "compile_seconds": 12.0,
    "flops": 7e11,
    "peak": 989e12,
    "memory": {"planned": 3 << 30, "inputs": 1 << 30, "between": 2 << 30, "room": 80e9},
    "operations": [{"name": "<b>", "source": "forward, dot", "ms": 3.5, "share": 0.5}],
}


def test_the_gist_splits_a_step_and_states_stall_and_use():
    text = "\n".join(gist(ACCOUNT))
    assert "64 images takes 10.0 ms: data 1.0, host 2.0, device 7.0" in text
    assert "waiting for images 2.0 % of the time; compiling took 12.0 s" in text
    assert "700 GFLOP a step, 100 TFLOP/s, 10.1 % of the bfloat16 peak" in text
    assert "plans 3 GiB of 74.5 GiB" in text


def test_the_page_stands_alone_and_escapes_names():
    page = render(ACCOUNT, name="run-1")
    assert "A training step takes 10.0 ms" in page
    assert "&lt;b&gt;" in page
    assert "src=" not in page


def test_a_device_of_unknown_peak_gets_no_utilisation():
    page = render(ACCOUNT | {"peak": None, "operations": [], "flops": 0}, name="r")
    assert "no utilisation is given" in page
    assert "names no operations" in page
    assert "counts no operations" in page


def test_a_run_without_a_trace_gets_no_page(tmp_path):
    assert tell_account(tmp_path) is None
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "account.json").write_text(json.dumps(ACCOUNT))
    assert tell_account(tmp_path) == tmp_path / "profile" / "report.html"


def test_bytes_in_words():
    assert [size(b) for b in (5, 2048, 3 << 20)] == ["5 B", "2 KiB", "3 MiB"]
