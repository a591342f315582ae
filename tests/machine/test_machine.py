"""Prices, interpolation, JSON, and the described machines."""

from math import inf, nan

import pytest

from abreast.core import AbreastError, Event, Kind
from abreast.machine import MACHINES, Machine


def event(kind="f", size=1.0, span=1.0, bytes=0.0, lane="0"):
    return Event(kind, lane, nan, nan, (), size, span, bytes, 0.0)


CURVED = Machine(curves={"f": [(4, 2.0), (1, 1.0), (8, 6.0)]})


@pytest.mark.parametrize(("rows", "seconds"), [(0.5, 1), (1, 1), (2.5, 1.5), (4, 2), (6, 4), (8, 6), (10, 8)])
def test_curves_are_interpolated(rows, seconds):
    assert CURVED.seconds(event(size=rows), Kind(unit=9)) == pytest.approx(seconds)
    assert CURVED.seconds(event(size=rows, span=3), Kind()) == pytest.approx(3 * seconds)


def test_a_curve_of_one_point_goes_on_in_proportion():
    machine = Machine(curves={"f": [(2, 1.0)]})
    assert machine.seconds(event(size=1), Kind()) == 1 and machine.seconds(event(size=6), Kind()) == 3


def test_a_noisy_end_of_a_curve_does_not_fall():
    assert Machine(curves={"f": [(1, 2.0), (2, 1.5)]}).seconds(event(size=100), Kind()) == 1.5


def test_roofline_then_unit():
    machine = Machine(flops=100.0, bandwidth=10.0)
    assert machine.seconds(event(size=1), Kind(flops=200, reads=50)) == 5
    assert machine.seconds(event(size=4), Kind(flops=200, reads=50)) == 8
    assert machine.seconds(event(span=3), Kind(reads=50)) == 15
    assert machine.seconds(event(size=4, span=3), Kind(unit=0.5)) == 1.5
    assert Machine().seconds(event(size=4), Kind(unit=0.5, flops=1e9, reads=1e9)) == 0.5


def test_shares_of_a_call_take_that_share_of_its_time():
    machine = Machine(flops=100.0, bandwidth=10.0, curves={"f": [(1, 1.0), (4, 2.0)]})
    for kind, plain in (("f", Kind()), ("g", Kind(flops=200, reads=50)), ("g", Kind(reads=50)), ("g", Kind(unit=3.0))):
        whole = machine.seconds(event(kind, size=4), plain)
        assert machine.seconds(event(kind, size=4 * 0.25, span=0.25), plain) == pytest.approx(whole / 4)


def test_transfers_and_speeds():
    machine = Machine(latency=1.0, link=4.0, speed={"1": 0.5, "1/fast": 2.0})
    assert machine.seconds(event(size=2, span=3, bytes=16, lane="1"), Kind()) == 3 + 2
    assert [machine.seconds(event(lane=lane), Kind()) for lane in ("0", "1", "1/x/y", "1/fast/x", "11")] == [
        1,
        2,
        2,
        0.5,
        1,
    ]


def test_json():
    for machine in (*MACHINES.values(), CURVED, Machine(speed={"3": 0.5})):
        assert Machine.from_json(machine.to_json()) == machine
        assert "Infinity" not in machine.to_json()
    for text in ("", "[]", '{"flop": 3}'):
        with pytest.raises(AbreastError, match="no machine"):
            Machine.from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"devices": 0},
        {"link": 0},
        {"latency": -1},
        {"speed": {"0": 0}},
        {"curves": {"f": []}},
        {"curves": {"f": [(1, -1)]}},
        {"link": nan},
    ],
)
def test_impossible_machines_are_refused(wrong):
    with pytest.raises(AbreastError):
        Machine(**wrong)


def test_described_machines_name_their_source():
    assert all(m.source and m.flops > 0 and m.bandwidth > 0 and m.devices for m in MACHINES.values())
    assert MACHINES["512 workers on 1 Gbit/s"].link < MACHINES["8 x H100 on NVLink"].link < inf
