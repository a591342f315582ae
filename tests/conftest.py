"""Settings of the whole suite: no network, one thread, small hypothesis runs."""

import os

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
