"""What every test shares: one event loop, and no clock on random examples."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A busy machine is slow, not wrong. The blob reproduces a failure elsewhere.
settings.register_profile("collab", deadline=None, print_blob=True)
settings.load_profile("collab")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
