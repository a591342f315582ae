"""What an event would take on a described machine."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from abreast.core.errors import AbreastError
from abreast.core.ledger import Event, Kind

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Machine:
    """Devices, and the links between them.

    devices: how many; None is one for every lane. Lanes beyond them share, modulo, unless a replay places them.
    curves: for a kind the seconds of one call by its rows, as points (rows, seconds), interpolated linearly.
    flops, bandwidth (bytes/s), memory (bytes): of one device; 0 is unknown. latency (s) of a round, link (bytes/s) of
    one link in one direction. speed: factors by lane or device ("3" is also meant for "3/draft"), 1 where not said.
    source: where the numbers are from.
    """

    name: str = "unit"
    devices: int | None = None
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict, hash=False)
    flops: float = 0.0
    bandwidth: float = 0.0
    memory: float = 0.0
    latency: float = 0.0
    link: float = inf
    speed: Mapping[str, float] = field(default_factory=dict, hash=False)
    source: str = ""

    def __post_init__(self) -> None:
        if self.devices is not None and self.devices < 1:
            raise AbreastError(f"a machine has at least one device, not {self.devices}; None is one for every lane.")
        if not self.link > 0 or min(self.latency, self.flops, self.bandwidth, self.memory) < 0:
            raise AbreastError("a machine's link must be above 0, and its other rates and its latency at least 0.")
        if any(not factor > 0 for factor in self.speed.values()):
            raise AbreastError(f"a speed is a factor above 0: {dict(self.speed)}.")
        curves = {kind: tuple((float(r), float(s)) for r, s in sorted(points)) for kind, points in self.curves.items()}
        if any(not points or points[0][0] < 0 or min(s for _, s in points) < 0 for points in curves.values()):
            raise AbreastError("a curve is at least one point (rows, seconds), neither below 0.")
        object.__setattr__(self, "curves", curves)

    def seconds(self, event: Event, kind: Kind) -> float:
        """A transfer: span x latency + bytes / (size x link). Else span times the first that is known of the kind's
        curve, the roofline max(flops, reads), and the kind's unit as seconds; divided by the lane's speed. A span
        below 1 is a share of a call (a stage, a strip) of size / span rows."""
        if event.bytes:
            return event.span * self.latency + event.bytes / (max(event.size, 1.0) * self.link)
        rows = event.size / event.span if 0 < event.span < 1 else event.size
        curve = self.curves.get(event.kind)
        if curve is not None:
            once = interpolate(curve, rows)  # type: ignore[arg-type]
        elif (kind.flops and self.flops) or (kind.reads and self.bandwidth):
            compute = kind.flops * rows / self.flops if self.flops else 0.0
            once = max(compute, kind.reads / self.bandwidth if self.bandwidth else 0.0)
        else:
            once = kind.unit
        return event.span * once / self._speed(event.lane) if self.speed else event.span * once

    def _speed(self, lane: str) -> float:
        """The factor of the longest named beginning of the lane's path."""
        while lane not in self.speed and "/" in lane:
            lane = lane.rpartition("/")[0]
        return self.speed.get(lane, 1.0)

    def to_json(self) -> str:
        """As JSON text; what is infinite is null."""
        facts = {name: None if value == inf else value for name, value in asdict(self).items()}
        return json.dumps(facts, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Machine:
        """The inverse of `to_json`. Raises AbreastError where `text` describes no machine."""
        try:
            facts: dict[str, Any] = json.loads(text)
            if facts.get("link", inf) is None:
                facts["link"] = inf
            return Machine(**facts)
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise AbreastError(f"this is no machine in JSON: {error}.") from error


def interpolate(curve: Curve, rows: float) -> float:
    """Seconds at `rows`: linear between points; the first point's below it; beyond the last, its segment goes on, but
    never falls."""
    at = bisect_left(curve, (rows,))
    if at == 0:
        return curve[0][1]
    if at == len(curve):
        if len(curve) == 1:
            return curve[0][1] * rows / curve[0][0] if curve[0][0] else curve[0][1]
        (r0, s0), (r1, s1) = curve[-2:]
        return s1 + max(0.0, (s1 - s0) / (r1 - r0)) * (rows - r1)
    (r0, s0), (r1, s1) = curve[at - 1], curve[at]
    return s0 + (s1 - s0) * (rows - r0) / (r1 - r0)
