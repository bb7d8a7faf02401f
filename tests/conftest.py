"""Every test starts from an environment without settings, and without a hub."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends.conversion import conversion_cache
from config import Settings, forbid_hub_access, limit_compute_threads

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Browser

    from tests.fakes import FakeModel
    from tests.several import AnyFake

# Before any test imports a model library.
forbid_hub_access()
if "PYTEST_XDIST_WORKER" in os.environ:  # there is a process for each core, or more
    limit_compute_threads(1)

MODEL_LIBRARIES = {"open_clip", "openvino", "sentence_transformers", "torch", "torchvision",
                   "transformers"}  # fmt: skip
# The files whose tests load a model, or start a service that does. `--fast` leaves them out.
WITH_MODELS = {
    f"test_{name}.py"
    for name in (
        *("attention", "backends", "balancer", "catalogue", "chaos", "compare", "conversion"),
        *("converted_folder", "core", "demo_model", "devices", "docs", "docs_commands"),
        *("download", "end_to_end"),
        *("export", "folder", "image_fuzz", "int8", "memory", "modernvbert", "openapi"),
        *("openclip", "page", "parity", "patches", "pixels", "portable", "precision"),
        *("recorded_texts", "replicas", "retries", "rollout", "sentence_texts", "server"),
        *("service", "serving_set", "shared_vectors", "smoke", "soak", "store", "text_parity"),
        *("tiles", "traces"),
        *("token_ids", "tokens", "trained_texts", "truncation", "unfit_folders", "vector_space"),
        *(
            "qwen3_vl",
            "vocabularies",
            "weights",
            "whole_answers",
            "check",
            "must_not_move",
            "model_name",
        ),
        *("pairs", "rerankers", "rerank_service", "several_models"),
        *("decoders", "openclip_towers", "shared_device", "text_models"),
    )
}
# Not the service itself, or seconds of a load that it cannot bear. `--fast` leaves them out, too.
BESIDE_THE_SERVICE = {
    f"test_{name}.py"
    for name in (
        *("bench", "bench_weaviate", "deploy", "docs_pages", "docs_release", "overload"),
        *("prometheus", "trace"),
    )
}
# What callers rely on, asked from outside. In these files helpers and names may follow the code;
# no input, status, body, header, vector or bound of a case may change.
FROZEN = {
    f"test_{name}.py"
    for name in (
        *("addresses", "clients", "drain", "end_to_end", "faults", "limits", "openai", "parity"),
        *("protocol", "recorded", "recorded_texts", "server", "service", "smoke"),
        *("text_parity", "truncation", "vectors", "whole_answers"),
    )
}

# The files that take longest, the longest first: where processes run files side by side, none is
# left with a long one at the end.
SLOWEST = [
    f"test_{name}.py"
    for name in (
        *("balancer", "download", "page", "parity", "text_parity", "int8", "rerank_service"),
        *("shared_vectors", "tokens", "rerankers", "weights", "backends", "openapi", "overload"),
        *("service", "vocabularies", "converted_folder", "demo_model", "qwen3_vl", "docs"),
        *("store", "server", "prometheus", "openclip_towers", "openclip", "sentence_texts"),
        *("tiles", "unfit_folders"),
    )
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="the service without model libraries")


class NoModelLibraries(MetaPathFinder):
    """Lets no test of the fast ones come to need a model library."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname.partition(".")[0] in MODEL_LIBRARIES:
            raise ModuleNotFoundError(
                f"{fullname} is not for tests that --fast runs: see WITH_MODELS in conftest.py"
            )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("fast"):
        sys.meta_path.insert(0, NoModelLibraries())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    left_out = WITH_MODELS | BESIDE_THE_SERVICE
    return True if config.getoption("fast") and collection_path.name in left_out else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("fast"):
        items[:] = [item for item in items if not item.get_closest_marker("models")]
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    for item in items:
        if item.path.name in FROZEN:
            item.add_marker("frozen")


@pytest.fixture(autouse=True)
def _clean_environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
async def client(backend: FakeModel) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application with the fake model that a test module calls `backend`."""
    from tests.asgi import serving

    async with serving(backend) as client:
        yield client


@pytest.fixture
def fakes() -> Sequence[AnyFake]:
    """Fake models of each kind, for several behind one address."""
    from tests.several import Named, Scores, Texts

    return [Named("clip"), Texts("minilm"), Scores("rerank")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser of the machine: see `needs_browser`."""
    from tests.browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Keep alive what refers to itself, such as an error in a frame that the error holds."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def converting_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in the test's own process, where the test is not about another: it has torch."""
    from tests.conversions import convert_here

    monkeypatch.setattr(conversion_cache, "run_in_subprocess", convert_here)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
