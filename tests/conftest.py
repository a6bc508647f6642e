"""Every test starts from the same seeds and leaves the process as it found it."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch counts the cores, and for every process that a test starts
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))

import numpy as np
import pytest
import torch

# Real images and trained weights, where a checkout has them beside it; nothing depends on them.
DATA = Path(os.environ.get("ATTRIBKIT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True, scope="module")
def _settled():
    """What was imported and collected stays to the end: `gc.collect()`, which some tests call for every image, need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_start():
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` also keeps a list of calls for devices that no test uses
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    yield
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not (DATA / "README.md").is_file():
        pytest.skip(f"no real images and weights at {DATA} (set ATTRIBKIT_TEST_DATA)")
    return DATA
