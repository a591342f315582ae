"""torch.distributed on ranks that take turns: FSDP2, DTensor, tensor parallel, DDP, pipelines against serial runs."""

import threading
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import distributed_c10d as c10d

from abreast import AbreastError, World

STEPS, BATCH, WIDTH = 3, 8, 8


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))


def batches():
    return torch.randn(STEPS, BATCH, WIDTH, generator=torch.Generator().manual_seed(1))


def train(net, rows=lambda x: x, optimiser=None):
    optimiser = optimiser or torch.optim.AdamW(net.parameters(), lr=1e-2)
    for x in batches():
        optimiser.zero_grad()
        net(rows(x)).pow(2).mean().backward()
        optimiser.step()
    state = net.module.state_dict() if hasattr(net, "module") else net.state_dict()
    return {k: v.full_tensor() if hasattr(v, "full_tensor") else v.detach() for k, v in state.items()}


def furthest(results):
    """The largest difference of any rank's parameters from the serial run's."""
    serial = train(model())
    return max(float((result[k] - serial[k]).abs().max()) for result in results for k in serial)


def sharded(team, shape=None):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    assert team.group.size() == dist.get_world_size() == team.size and dist.get_rank() == team.rank
    names = ("replicate", "shard")[-len(shape or (1,)) :]
    mesh = init_device_mesh("cpu", shape or (team.size,), mesh_dim_names=names)
    net = model()
    for layer in net[::2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return train(net, lambda x: x.chunk(team.size)[team.rank])


@pytest.mark.parametrize("n", [2, 4])
def test_fsdp2_trains_as_the_serial_run(n):
    world = World(n)
    assert furthest(world.map(sharded)) < 1e-6
    ledger = world.ledger
    # A step gathers three layers forwards and again backwards, and scatters three gradients; then six parameters.
    assert ledger.calls("reduce_scatter") == STEPS * 3
    assert ledger.calls("all_gather") == STEPS * 6 + 6
    assert ledger.total("exposed") + ledger.total("hidden") == ledger.bytes and ledger.loose(world.lane()) == []


def test_hybrid_sharding_on_a_mesh():
    world = World(4)
    assert furthest(world.map(lambda team: sharded(team, (2, 2)))) < 1e-6
    assert len({e.lane for e in world.ledger.events}) == 4 and world.ledger.calls("all_reduce") > 0


def test_fsdp2_on_two_processes_has_the_bits_of_two_inline_ranks(pool2):
    inline, processes = World(2).map(sharded), World(pool=pool2).map(sharded)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(inline, processes) for k in a)


def test_data_parallel():
    def worker(team):
        net = nn.parallel.DistributedDataParallel(model(), process_group=team.group)
        return train(net, lambda x: x.chunk(team.size)[team.rank])

    assert furthest(World(4).map(worker)) < 1e-6


def test_tensor_parallel():
    def worker(team):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        assert team.group is not None
        mesh = init_device_mesh("cpu", (team.size,))
        return train(parallelize_module(model(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}))

    assert furthest(World(2).map(worker)) < 1e-6


def test_dtensor():
    def worker(team):
        from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh

        assert team.group is not None
        whole = torch.arange(35.0).reshape(7, 5)
        rows = distribute_tensor(whole, init_device_mesh("cpu", (team.size,)), [Shard(0)])
        columns = rows.redistribute(placements=[Shard(1)])
        partial = DTensor.from_local(torch.full((2,), 1.0 + team.rank), rows.device_mesh, [Partial()])
        assert torch.equal(columns.redistribute(placements=[Replicate()]).to_local(), whole)
        assert torch.equal((rows @ rows.T).full_tensor(), whole @ whole.T)
        return partial.full_tensor().tolist(), columns.to_local().shape[1]

    assert World(3).map(worker) == [([6, 6], 2), ([6, 6], 2), ([6, 6], 1)]


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("schedule", ["Schedule1F1B", "ScheduleGPipe"])
def test_pipelines_have_the_bits_of_accumulated_micro_batches(n, schedule):
    def stages():
        torch.manual_seed(0)
        return [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(n)]

    def worker(team):
        from torch.distributed import pipelining

        block = stages()[team.rank]
        stage = pipelining.PipelineStage(block, team.rank, n, torch.device("cpu"), group=team.group)
        run = getattr(pipelining, schedule)(stage, n_microbatches=4, loss_fn=nn.functional.mse_loss)
        optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
        for x in batches():
            optimiser.zero_grad()
            run.step(*[x] * (team.rank == 0), **({"target": x / 2} if team.rank == n - 1 else {}))
            optimiser.step()
        return [p.detach() for p in block.parameters()]

    blocks = stages()
    serial = nn.Sequential(*blocks)
    optimiser = torch.optim.SGD(serial.parameters(), lr=0.1)
    for x in batches():
        optimiser.zero_grad()
        for part in x.chunk(4):
            nn.functional.mse_loss(serial(part), part / 2).backward()
        for p in serial.parameters():
            p.grad /= 4
        optimiser.step()
    world = World(n)
    got = world.map(worker)
    assert all(torch.equal(a, p) for g, block in zip(got, blocks) for a, p in zip(g, block.parameters()))
    assert world.ledger.calls("send") >= STEPS * 4 * 2 * (n - 1)


def test_functions_of_torch_distributed():
    def worker(team):
        from torch.distributed import _functional_collectives as functional

        group, r, n = team.group, team.rank, team.size
        x, y, zero = torch.arange(6.0) + r, torch.tensor([float(r)]), torch.zeros(2)
        seen = {"functional": functional.all_reduce(x, "sum", group).tolist()}
        work = dist.all_reduce(x, async_op=True)
        assert work.wait() and work.is_completed() and work.get_future().value()[0] is x
        dist.reduce(y, 1, op=dist.ReduceOp.MAX)
        everybody, scattered, parts = [None] * n, torch.zeros(2), [torch.zeros(1) for _ in range(n)]
        dist.all_gather_object(everybody, {"rank": r})
        dist.scatter(scattered, [torch.full((2,), float(i)) for i in range(n)] if r == 1 else None, src=1)
        dist.all_gather(parts, torch.tensor([float(r)]))
        gathered = [torch.zeros(1) for _ in range(n)] if r == 2 else None
        dist.gather(torch.tensor([10.0 * r]), gathered, dst=2)
        outputs = [torch.zeros(1) for _ in range(n)]
        dist.all_to_all(outputs, [torch.tensor([10.0 * r + i]) for i in range(n)])
        uneven = torch.zeros(n * (r + 1))
        single = torch.cat([torch.full((i + 1,), float(r)) for i in range(n)])
        dist.all_to_all_single(uneven, single, [r + 1] * n, [i + 1 for i in range(n)])
        pair = dist.new_group([0, n - 1])
        in_pair = torch.ones(1)
        if r in (0, n - 1):
            dist.all_reduce(in_pair, dist.ReduceOp.PRODUCT, group=pair)
            dist.broadcast(in_pair, src=n - 1, group=pair)
        if r == 0:
            dist.send(torch.ones(2), 1)
        elif r == 1:
            assert dist.recv(zero) == 0
        with dist._coalescing_manager():
            a, b = torch.ones(1), torch.ones(2)
            dist.all_reduce(a)
            dist.all_reduce(b)
        dist.barrier()
        seen |= {"x": x.tolist(), "y": y.item(), "objects": everybody, "scattered": scattered.tolist()}
        seen |= {"parts": [p.item() for p in parts], "gathered": gathered and [g.item() for g in gathered]}
        seen |= {"to all": [o.item() for o in outputs], "uneven": uneven.tolist(), "pair": in_pair.item()}
        return {**seen, "received": zero.tolist(), "coalesced": (a.item(), b.tolist())}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = World(3).map(worker)
    for r, seen in enumerate(got):
        assert seen == {
            "functional": [3.0, 6, 9, 12, 15, 18], "x": [3.0, 6, 9, 12, 15, 18], "y": 2.0 if r == 1 else r,
            "objects": [{"rank": 0}, {"rank": 1}, {"rank": 2}], "scattered": [r, r], "parts": [0, 1, 2],
            "gathered": [0, 10, 20] if r == 2 else None, "to all": [r, 10 + r, 20 + r],
            "uneven": [float(i) for i in range(3) for _ in range(r + 1)], "pair": 1,
            "received": [1, 1] if r == 1 else [0, 0], "coalesced": (3, [3, 3]),
        }  # fmt: skip


def test_teams_have_groups():
    def worker(team):
        half = team.split(team.rank % 2)
        x = torch.tensor([float(team.rank)])
        dist.all_reduce(x, group=half.group)
        return x.item(), half.group is half.group, float(team.all_reduce(x)), half.group.size()

    assert World(4).map(worker) == [(2, True, 12, 2), (4, True, 12, 2)] * 2


def test_torchs_own_world_comes_back():
    before = c10d._world

    def worker(team):
        assert team.group is dist.group.WORLD and c10d._world is not before
        if team.rank == 1:
            raise KeyError("lost")
        dist.barrier()

    for _ in range(3):
        with pytest.raises(KeyError, match="lost"):
            World(2).map(worker)
        assert c10d._world is before and not dist.is_initialized()


def test_deadlocks_and_other_threads_are_named():
    with pytest.raises(AbreastError, match="deadlock: rank 1 waits for all_reduce on 'net'"):
        World(2).map(lambda team: dist.all_reduce(torch.ones(1), group=team.group) if team.rank else team.group.size())

    def threaded(team):
        caught = []

        def other():
            try:
                team.barrier()
            except AbreastError as error:
                caught.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return caught

    assert World(2).map(threaded)[0][0].startswith("rank 0's team or group is used on another thread than its own")
