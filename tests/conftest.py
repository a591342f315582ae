"""Settings of the whole suite: no network, one thread, small hypothesis runs."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("suite", max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("evidence", max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two threads beside another busy process are slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pools():
    """Warm pools of processes by size, started when first asked for and closed at the end."""
    from abreast.workers import Pool

    started = {}

    def pool(size):
        if size not in started:
            started[size] = Pool(size, limit=60.0)
        return started[size]

    yield pool
    for each in started.values():
        each.close()


@pytest.fixture
def pool2(pools):
    """The session's pool of 2 processes: World(pool=pool2)."""
    return pools(2)


@pytest.fixture
def pool4(pools):
    """The session's pool of 4 processes."""
    return pools(4)


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, as it does at a terminal; a shell's background jobs ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
