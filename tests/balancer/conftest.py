"""Where the balancer is tested."""

import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def _on_linux() -> None:
    if sys.platform != "linux":
        pytest.skip("needs Linux: a loopback address for each replica, and equal shares of a core")
