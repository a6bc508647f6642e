"""Every test starts from the same seeds and leaves the process as it found it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

# Real images and trained weights, where a checkout has them beside it; nothing depends on them.
DATA = Path(os.environ.get("ATTRIBKIT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


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
