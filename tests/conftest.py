"""Every test starts from an environment without settings, and without a hub."""

import os
from collections.abc import Iterator

import pytest

from config import Settings, forbid_hub_access

forbid_hub_access()  # before any test imports a model library


@pytest.fixture(autouse=True)
def _clean_environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
