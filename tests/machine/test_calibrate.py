"""Measuring this machine, and keeping what was measured."""

import time

import pytest

from abreast.core import AbreastError
from abreast.machine import Calibration, calibrate
from abreast.machine.calibrate import cpu_name, fingerprint, measure_bandwidth, measure_flops


def test_a_curve_is_measured_in_turns():
    calls = []

    def call(rows):
        calls.append(rows)
        time.sleep(rows * 1e-3)

    curve = calibrate(call, rows=(1, 4), repeats=3)
    assert calls == [1, 4] * 4
    assert [rows for rows, _ in curve] == [1.0, 4.0] and 1e-3 <= curve[0][1] < curve[1][1]
    with pytest.raises(AbreastError, match="at least one repeat"):
        calibrate(call, rows=[])


def test_a_calibration_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ABREAST_CACHE", str(tmp_path))
    made = Calibration(
        "model", "float32", {"target": ((1.0, 0.5), (2.0, 0.75))}, flops=1e9, cpu="a", threads=1, torch="2"
    )
    asked = Calibration("model", "float32", cpu="a", threads=1, torch="2")
    assert asked.load() is None
    assert made.save() == asked.path and asked.path.is_relative_to(tmp_path)
    found = asked.load()
    assert found is not None and found.machine() == made.machine()
    assert Calibration("model", "float64", cpu="a", threads=1, torch="2").load() is None
    asked.path.write_text("[]")
    with pytest.raises(AbreastError, match="is no calibration"):
        asked.load()


def test_the_machine_is_measured():
    torch = pytest.importorskip("torch")
    assert Calibration("model", "float32").threads == torch.get_num_threads() and cpu_name()
    assert measure_flops(64, repeats=2) > 1e6
    assert measure_bandwidth(1 << 20, repeats=2) > 1e6
    one, same, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
