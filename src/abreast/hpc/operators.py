"""A chain of operators over many items: decode, split, filter, caption; each with as many workers as it needs.

The data side of Aquarius (2025): throughput is that of the slowest operator, so workers go where the time goes.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from abreast.core import IDENTICAL, AbreastError, Guarantee, Kind, Lane, Method, Problem
from abreast.workers import World

Operator = Callable[[Any], Any]


class Done(NamedTuple):
    """One operator on one item."""

    item: int
    operator: int
    worker: int
    start: float
    end: float


@dataclass(frozen=True)
class DataPipeline(Problem[list[Any]]):
    """Items through operators in order; an operator that gives None drops the item. The answer is what is left, in the
    items' order. operators: name -> function. Raises AbreastError without operators."""

    items: Sequence[Any] = field(repr=False, compare=False)
    operators: dict[str, Operator] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.operators:
            raise AbreastError("a pipeline has at least one operator.")

    @property
    def reference(self) -> Method:
        return InOrder()

    def distance(self, value: list[Any], reference: list[Any]) -> float:
        """How many places differ."""
        short, long = sorted((value, reference), key=len)
        return float(len(long) - len(short) + sum(a != b for a, b in zip(short, long)))


@dataclass(frozen=True)
class InOrder(Method):
    """One item after the other."""

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL

    def run(self, problem: DataPipeline, world: World) -> list[Any]:
        lane, left = world.lane(), []
        for item in problem.items:
            for name, operator in problem.operators.items():
                with lane.measure(name):
                    item = operator(item)
                if item is None:
                    break
            if item is not None:
                left.append(item)
        return left


@dataclass(frozen=True)
class OperatorGraph(Method):
    """Every operator has workers of its own; items flow from one to the next as soon as a worker is free.

    workers: in all, at least one for each operator. autosize: divide them by how long the operators took on the first
    `sample` items, else evenly. backend: "threads" for operators that release the interpreter (decoding, file and
    network access, torch), "ray" for actors of a Ray cluster. ahead: items under way for each worker. Source: Aquarius,
    2025, the data pipeline. Raises AbreastError for too few workers, and where Ray is not installed.
    """

    workers: int = 8
    autosize: bool = True
    backend: Literal["threads", "ray"] = "threads"
    sample: int = 4
    ahead: int = 2

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL

    def run(self, problem: DataPipeline, world: World) -> list[Any]:
        names, operators = list(problem.operators), list(problem.operators.values())
        if self.backend not in ("threads", "ray"):
            raise AbreastError(f"operators run on threads or ray, not on {self.backend!r}.")
        first, costs = _sampled(problem, self.sample, world)
        counts = sizes(costs if self.autosize else [1.0] * len(operators), self.workers)
        rest = list(problem.items)[len(first) :]
        flow = _threads if self.backend == "threads" else _ray
        left, done = flow(rest, operators, counts, self.ahead * self.workers)
        _record(world, names, done)
        world.ledger.note(world.ledger.add("sizes", 0.0, lane=world.lane().name), **dict(zip(names, counts)))
        return [item for item in (*first, *left) if item is not None]

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "the same items in the same order", self, InOrder()


def sizes(costs: Sequence[float], workers: int) -> list[int]:
    """Workers for each operator, at least one, so that the slowest is as fast as whole workers allow. costs: seconds
    that an item spends in each, those dropped before counting nothing. Raises AbreastError for too few workers."""
    if workers < len(costs):
        raise AbreastError(f"{len(costs)} operators need as many workers at least, not {workers}.")
    counts = [1] * len(costs)
    slowest = [(-cost, k) for k, cost in enumerate(costs)]
    heapq.heapify(slowest)
    for _ in range(workers - len(costs)):
        _, k = heapq.heappop(slowest)
        counts[k] += 1
        heapq.heappush(slowest, (-costs[k] / counts[k], k))
    return counts


def _sampled(problem: DataPipeline, n: int, world: World) -> tuple[list[Any], list[float]]:
    """The first n items, done in order, and the seconds that an item spends in each operator."""
    lane, spent, out = world.lane(), [0.0] * len(problem.operators), []
    for item in list(problem.items)[:n]:
        for k, (name, operator) in enumerate(problem.operators.items()):
            start = time.perf_counter()
            with lane.measure(name):
                item = operator(item)
            spent[k] += time.perf_counter() - start
            if item is None:
                break
        out.append(item)
    return out, [max(s, 1e-9) for s in spent]


def _threads(items: list[Any], operators: list[Operator], counts: list[int], most: int) -> tuple[list[Any], list[Done]]:
    """Queues between the operators' threads, none longer than `most`."""
    import queue
    import threading

    queues: list[queue.Queue[Any]] = [queue.Queue(most) for _ in range(len(operators) + 1)]
    done: list[Done] = []
    failed: list[BaseException] = []
    results: dict[int, Any] = {}
    zero = time.perf_counter()

    def work(k: int, worker: int) -> None:
        while (got := queues[k].get()) is not None:
            i, item = got
            if item is not None and not failed:
                start = time.perf_counter() - zero
                try:
                    item = operators[k](item)
                except BaseException as error:
                    failed.append(error)
                done.append(Done(i, k, worker, start, time.perf_counter() - zero))
            queues[k + 1].put((i, None if failed else item))

    def collect() -> None:
        for _ in items:
            i, item = queues[-1].get()
            results[i] = item

    threads = [threading.Thread(target=work, args=(k, w), daemon=True) for k, n in enumerate(counts) for w in range(n)]
    collector = threading.Thread(target=collect, daemon=True)
    for thread in (*threads, collector):
        thread.start()
    for pair in enumerate(items):
        queues[0].put(pair)
    collector.join()
    for k, n in enumerate(counts):
        for _ in range(n):
            queues[k].put(None)
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return [results[i] for i in range(len(items))], done


def _ray(items: list[Any], operators: list[Operator], counts: list[int], most: int) -> tuple[list[Any], list[Done]]:
    """Actors of a Ray cluster, one for each worker; an item's chain of calls is handed over at once."""
    try:
        import ray
    except ImportError as error:
        raise AbreastError("the backend ray needs Ray: pip install ray.") from error
    if not ray.is_initialized():
        ray.init(num_cpus=sum(counts), include_dashboard=False, log_to_driver=False)

    class Worker:
        def __init__(self, k: int, number: int, operator: Operator):
            self.k, self.number, self.operator = k, number, operator

        def call(self, i: int, given: tuple[Any, list[Done]]) -> tuple[Any, list[Done]]:
            item, done = given
            if item is None:
                return given
            start = time.time()
            item = self.operator(item)
            return item, [*done, Done(i, self.k, self.number, start, time.time())]

    remote, zero = ray.remote(num_cpus=0)(Worker), time.time()
    pools = [[remote.remote(k, w, operator) for w in range(counts[k])] for k, operator in enumerate(operators)]
    under_way: list[Any] = []
    chains = []
    for i, item in enumerate(items):
        value: Any = (item, [])
        for pool in pools:
            value = pool[i % len(pool)].call.remote(i, value)
        chains.append(value)
        under_way.append(value)
        if len(under_way) >= most:
            _, under_way = ray.wait(under_way, num_returns=1)
    found = ray.get(chains)
    for pool in pools:
        for actor in pool:
            ray.kill(actor)
    done = [one._replace(start=one.start - zero, end=one.end - zero) for _, each in found for one in each]
    return [item for item, _ in found], done


def _record(world: World, names: list[str], done: list[Done]) -> None:
    """An event for each operator on each item: after the item's last one, on its worker's lane."""
    root, last = world.lane(), dict[int, int]()
    lanes: dict[tuple[int, int], Lane] = {}
    for name in names:
        world.ledger.kinds.setdefault(name, Kind())
    for one in sorted(done, key=lambda d: (d.operator, d.start)):
        key = (one.operator, one.worker)
        lane = lanes.setdefault(key, world.lane(f"{names[one.operator]} {one.worker}"))
        after = (last[one.item],) if one.item in last else ()
        last[one.item] = lane.add(names[one.operator], after=after, start=one.start, end=one.end)
    root.wait(*lanes.values())
