"""A run that a failed test leaves behind does not go on into the next one."""

from __future__ import annotations

import pytest
from support import STARTED


@pytest.fixture(autouse=True)
def _nothing_goes_on():
    yield
    while STARTED:
        with STARTED.pop() as process:  # which also closes its pipes
            process.kill()
