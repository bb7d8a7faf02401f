"""What Prometheus sees, through ASGI, and what the dashboard makes of it."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import prometheus_client
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from backends.model import GpuMemory, Rows
from config import VERSION
from errors import REASONS
from tests import several
from tests.asgi import serving
from tests.fakes import TOO_LONG, FakeModel
from tests.image_files import base64_of, plain
from web.histogram import Histogram

pytestmark = pytest.mark.anyio

DASHBOARD = Path(__file__).parent.parent / "deploy/grafana-dashboard.json"
IMAGE = base64_of(plain((9, 8, 7)))
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_a_histogram_is_written_as_the_clients_own_would_be(accept: str) -> None:
    meaning, bounds, labels = "What it is.", (0.5, 1, 2.5), ("path", "kind")
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    empty = Histogram("empty", meaning, bounds, *labels)
    histogram = Histogram("seconds", meaning, bounds, *labels)
    for one in (empty, histogram):
        ours.register(one)
    prometheus_client.Histogram("empty", meaning, labels, registry=theirs, buckets=bounds)
    other = prometheus_client.Histogram("seconds", meaning, labels, registry=theirs, buckets=bounds)
    for path, value in [("/a", 0.5), ("/a", 0.25), ("/a", 2.6), ("/b", 1.5), ("/a", 1.0)]:
        histogram.labels(path, "x").observe(value)
        other.labels(path, "x").observe(value)
    histogram.labels("/c", "unused")
    other.labels("/c", "unused")
    encode, _ = choose_encoder(accept)

    assert encode(ours) == encode(theirs)


@pytest.fixture
def backend() -> FakeModel:
    return FakeModel()


class Scrape:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.families: list[Metric] = list(text_string_to_metric_families(text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._samples[name, frozenset(labels.items())]

    def names(self) -> set[str]:
        return {name for name, _ in self._samples}

    def labels_of(self, name: str) -> set[str]:
        return {label for known, labels in self._samples if known == name for label, _ in labels}


async def until_queued(client: httpx.AsyncClient, modality: str, count: int) -> None:
    async with asyncio.timeout(10):
        while (await scrape(client))("inference_queue_items", modality=modality) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def scrape(client: httpx.AsyncClient) -> Scrape:
    return Scrape((await client.get("/metrics")).text)


async def test_requests_are_counted_by_code_and_items_by_modality(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/vectorize", json={"texts": ["a", "b"], "images": [IMAGE]})
    await client.post("/vectorize", json={"texts": ["a"], "images": ["?"]})
    await client.get("/meta")
    seen = await scrape(client)

    assert seen("inference_requests_total", endpoint="/vectorize", code="200") == 1
    assert seen("inference_requests_total", endpoint="/vectorize", code="422") == 1
    assert seen("inference_items_total", modality="text") == 3
    assert seen("inference_items_total", modality="image") == 2
    durations = "inference_request_duration_seconds_count"
    assert seen(durations, endpoint="/vectorize", status_class="2xx") == 1
    assert seen(durations, endpoint="/vectorize", status_class="4xx") == 1


async def test_refusals_under_overload_make_no_answer_look_fast(backend: FakeModel) -> None:
    backend.gate.clear()
    async with serving(backend, max_queue_items=1) as client:
        asked = asyncio.create_task(client.post("/vectors", json={"text": "first"}))
        assert await asyncio.to_thread(backend.busy.wait, 10)
        refused = [
            await client.post("/vectorize", json={"texts": [f"{number}"]}) for number in range(9)
        ]
        backend.gate.set()
        await asked
        seen = await scrape(client)

    assert {answer.status_code for answer in refused} == {429}
    durations = "inference_request_duration_seconds_count"
    assert seen(durations, endpoint="/vectors", status_class="2xx") == 1
    assert seen(durations, endpoint="/vectorize", status_class="4xx") == 9
    stages = "inference_stage_duration_seconds_count"
    assert seen(stages, stage="read", status_class="2xx") == 1
    assert seen(stages, stage="read", status_class="4xx") == 9


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "body"),
        (json.dumps({"images": ["?"]}).encode(), "base64"),
        (json.dumps({"images": [base64_of(b"GIF")]}).encode(), "not_an_image"),
        (json.dumps({"images": [base64_of(plain(size=(64, 64))[:80])]}).encode(), "broken_image"),
        (json.dumps({"images": [base64_of(plain(size=(64, 2000)))]}).encode(), "pixels"),
    ],
)
async def test_a_refusal_is_counted_by_its_reason(
    backend: FakeModel, body: bytes, reason: str
) -> None:
    async with serving(backend, max_image_pixels=100_000) as client:
        await client.post("/vectorize", content=body)

        assert (await scrape(client))("inference_request_failures_total", reason=reason) == 1


async def test_every_reason_is_there_from_the_start_and_no_other(
    client: httpx.AsyncClient,
) -> None:
    counters = [
        f for f in (await scrape(client)).families if f.name == "inference_request_failures"
    ]

    assert [sample.labels["reason"] for sample in counters[0].samples] == list(REASONS)


async def test_a_halved_batch_is_counted_as_the_passes_that_it_took() -> None:
    class Picky(FakeModel):
        def encode_text(self, texts: Sequence[str]) -> Rows:
            if len(texts) > 2:
                raise ValueError
            return super().encode_text(texts)

    async with serving(Picky()) as client:
        await client.post("/vectorize", json={"texts": ["a", "b", "c", "d"]})
        seen = await scrape(client)

    assert seen("inference_batch_items_count", modality="text") == 3
    assert seen("inference_batch_items_sum", modality="text") == 4 + 2 + 2


async def test_each_stage_that_was_passed_is_timed(client: httpx.AsyncClient) -> None:
    await client.post("/vectorize", json={"images": [IMAGE]})
    await client.post("/vectorize", json={"texts": ["a"]})
    seen = await scrape(client)
    passed = {
        stage: seen("inference_stage_duration_seconds_count", stage=stage, status_class="2xx")
        for stage in ("read", "queue", "decode", "preprocess", "encode", "serialize")
    }

    assert passed == {
        "read": 2,
        "queue": 2,
        "decode": 1,
        "preprocess": 1,
        "encode": 2,
        "serialize": 2,
    }


async def test_batches_are_counted_by_scheduler_with_their_sizes(
    client: httpx.AsyncClient, backend: FakeModel
) -> None:
    backend.gate.clear()
    first = asyncio.create_task(client.post("/vectorize", json={"texts": ["first"]}))
    assert await asyncio.to_thread(backend.busy.wait, 10)
    asked = {"texts": [f"text {i}" for i in range(8)]}
    second = asyncio.create_task(client.post("/vectorize", json=asked))
    await until_queued(client, "text", 8)
    backend.gate.set()
    await asyncio.gather(first, second)
    seen = await scrape(client)

    assert seen("inference_queue_items", modality="text") == 0
    assert seen("inference_queue_seconds", modality="text") == 0
    assert seen("inference_batch_items_bucket", modality="text", le="1.0") == 1
    assert seen("inference_batch_items_sum", modality="text") == 9
    assert seen("inference_batch_items_count", modality="text") == 2
    assert seen("inference_batch_duration_seconds_sum", modality="text") > 0


class SlowDecoder(FakeModel):
    """Its gate holds up the threads that decode, not the model."""

    def preprocess(self, image: Image.Image) -> bytes:
        self._pass_gate()
        return super().preprocess(image)


async def test_images_that_wait_to_be_decoded_are_in_the_queue() -> None:
    backend = SlowDecoder()
    backend.gate.clear()
    images = [base64_of(plain((i, 0, 0))) for i in range(9)]
    async with serving(backend) as client:
        asked = asyncio.create_task(client.post("/vectorize", json={"images": images}))
        await until_queued(client, "image", 9)
        backend.gate.set()

        assert (await asked).status_code == 200
        assert (await scrape(client))("inference_queue_items", modality="image") == 0


async def test_the_cache_the_cut_texts_and_the_model_are_reported(
    client: httpx.AsyncClient, backend: FakeModel
) -> None:
    for _ in range(3):
        await client.post("/vectorize", json={"texts": ["a"]})
    for letter in "abcde":
        await client.post("/vectorize", json={"texts": [letter * TOO_LONG]})
    seen = await scrape(client)

    assert seen("inference_cache_lookups_total", result="hit") == 2
    assert seen("inference_cache_lookups_total", result="miss") == 6
    assert seen("inference_cache_vectors") == 6
    assert seen("inference_truncated_texts_total") == 5
    assert seen("inference_build_info", version=VERSION) == 1
    assert seen.labels_of("inference_model_info") == {
        "model",
        "revision",
        "family",
        "dimensions",
        "parameters",
        "runtime",
        "device",
        "precision",
        "text_mode",
        "vector_space",
    }
    assert seen("process_resident_memory_bytes") > 1e6
    assert not any(name.startswith("inference_gpu") for name in seen.names())


async def test_the_memory_of_a_gpu_is_reported_in_bytes(
    client: httpx.AsyncClient, backend: FakeModel
) -> None:
    memory = GpuMemory(allocated=1, reserved=2, total=3)
    backend.memory = memory
    seen = await scrape(client)

    assert seen("inference_gpu_memory_allocated_bytes") == 1
    assert seen("inference_gpu_memory_reserved_bytes") == 2
    assert seen("inference_gpu_memory_total_bytes") == 3


async def test_prometheus_gets_the_format_that_it_asks_for(client: httpx.AsyncClient) -> None:
    plain_text = await client.get("/metrics", headers={"accept": "*/*"})
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}
    openmetrics = await client.get("/metrics", headers=accept)

    assert plain_text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


async def test_names_and_units_keep_to_the_conventions(client: httpx.AsyncClient) -> None:
    await client.post("/vectorize", json={"texts": ["a"]})
    for family in (await scrape(client)).families:
        if family.name.startswith("inference_"):
            assert family.documentation
            assert re.fullmatch(r"inference_[a-z]+(_[a-z]+)*", family.name)
            is_counter = family.type == "counter"
            assert all(s.name.endswith("_total") == is_counter for s in family.samples)
            assert not re.search(r"_(ms|milliseconds|mb|size)$", family.name)


def test_two_applications_count_apart() -> None:
    async def count_in_both() -> tuple[float, float]:
        async with serving(FakeModel()) as one, serving(FakeModel()) as other:
            await one.post("/vectorize", json={"texts": ["a"]})
            await other.post("/vectorize", json={"texts": ["a", "b"]})
            both = [(await scrape(client)) for client in (one, other)]
            one_texts, other_texts = (
                seen("inference_items_total", modality="text") for seen in both
            )
            return one_texts, other_texts

    assert asyncio.run(count_in_both()) == (1, 2)


# --- the dashboard


def panels() -> Iterator[dict[str, object]]:
    dashboard = json.loads(DASHBOARD.read_text())
    yield from (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries(panel: dict[str, object]) -> list[str]:
    targets = panel["targets"]
    assert isinstance(targets, list)
    return [target["expr"] for target in targets]


async def test_every_name_and_label_on_the_dashboard_is_in_the_metrics(
    client: httpx.AsyncClient, backend: FakeModel, tmp_path: Path
) -> None:
    fakes = [several.Named("clip"), several.Texts("minilm")]
    several_models = several.serving(tmp_path, fakes, default_model="clip", models_on_demand=True)
    async with several_models as on_demand:
        of_loads = await scrape(on_demand)
    backend.memory = GpuMemory(1, 2, 3)
    await client.post("/vectorize", json={"texts": ["a"], "images": [IMAGE, "?"]})
    await client.post("/vectorize", json={"texts": ["a"], "images": [IMAGE]})
    of_one = await scrape(client)
    given_by_prometheus = {"namespace", "instance", "job"}

    for expression in (query for panel in panels() for query in queries(panel)):
        names = set(re.findall(r"\b(?:inference|process)_\w+", expression))
        assert names
        seen = of_loads if re.search("inference_model_(un)?load", expression) else of_one
        assert names <= seen.names(), expression
        labels = given_by_prometheus.union(*(seen.labels_of(name) for name in names))
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        compared = re.findall(r"\b(\w+)(?:=~|!~|!=|=)\"", expression)
        used = {label.strip() for group in grouped for label in group.split(",")} | set(compared)
        assert used <= labels, expression


def test_every_panel_says_how_to_read_it_and_one_names_the_autoscalers_metric() -> None:
    descriptions = [str(panel["description"]) for panel in panels()]
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]

    assert all(len(description) > 30 for description in descriptions)
    assert any("autoscaler" in d and "inference_queue_items" in d for d in descriptions)
    assert len(ids) == len(set(ids))
