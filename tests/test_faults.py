"""A backend that fails on demand: whom it harms, and what health says of it."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import httpx
import numpy as np
import pytest
from PIL import Image

from backends.model import Rows
from errors import DeviceLostError, DeviceMemoryError
from tests.asgi import serving
from tests.fakes import FakeModel, vector_of
from tests.image_files import base64_of, plain

pytestmark = pytest.mark.anyio


class FaultyBackend(FakeModel):
    """Fails in the way that a text asks for."""

    broken = False

    def encode_text(self, texts: Sequence[str]) -> Rows:
        vectors = super().encode_text(texts)
        if "lose the device" in texts:
            raise DeviceLostError("CUDA error: unspecified launch failure")
        if self.broken or "fail" in texts:
            raise ValueError("what a library says")
        if len(texts) > 4:
            raise DeviceMemoryError("out of memory")
        vectors[[text == "nan" for text in texts]] = np.nan
        return vectors


async def ask(client: httpx.AsyncClient, text: str) -> httpx.Response:
    return await client.post("/vectorize", json={"texts": [text]})


async def probes(client: httpx.AsyncClient) -> tuple[int, int]:
    live, ready = [await client.get(f"/.well-known/{name}") for name in ("live", "ready")]
    return live.status_code, ready.status_code


async def until(client: httpx.AsyncClient, wanted: tuple[int, int]) -> None:
    for _ in range(1000):
        if await probes(client) == wanted:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


@pytest.mark.parametrize(
    ("poison", "sentence"),
    [("fail", "internal error"), ("nan", "the model answered numbers that are not finite")],
)
async def test_a_poisonous_text_harms_no_batch_mate(poison: str, sentence: str) -> None:
    backend = FaultyBackend()
    backend.gate.clear()
    async with serving(backend) as client:
        texts = ["first", "a", poison, "b", "c"]
        asked = [asyncio.create_task(ask(client, text)) for text in texts]
        await asyncio.to_thread(backend.busy.wait, 10)
        backend.gate.set()
        answers = await asyncio.gather(*asked)
        assert await probes(client) == (204, 204)

    by_text = dict(zip(texts, answers, strict=True))
    bad = by_text.pop(poison)
    assert (bad.status_code, bad.json()["error"].startswith(sentence)) == (500, True)
    for text, answer in by_text.items():
        assert answer.json()["textVectors"] == [pytest.approx(vector_of(text).tolist())]


async def test_a_batch_too_large_for_the_device_is_answered_in_smaller_ones() -> None:
    backend = FaultyBackend()
    texts = [f"text {i}" for i in range(16)]
    async with serving(backend) as client:
        answer = await client.post("/vectorize", json={"texts": texts})
        again = await client.post("/vectorize", json={"texts": [f"new {text}" for text in texts]})

    assert answer.json()["textVectors"] == [pytest.approx(vector_of(t).tolist()) for t in texts]
    assert again.status_code == 200
    sizes = [len(batch) for batch in backend.text_batches]
    assert max(sizes) == 16
    assert max(sizes[-4:]) <= 4  # it remembers


async def test_a_lost_device_turns_live_and_ready_to_503_with_the_reason() -> None:
    async with serving(FaultyBackend()) as client:
        lost = await ask(client, "lose the device")
        after = await ask(client, "anything")
        assert await probes(client) == (503, 503)
        reason = (await client.get("/.well-known/live")).json()["error"]

    assert lost.status_code == 500
    assert after.status_code == 503
    assert reason == after.json()["error"]
    assert reason.startswith("the device is lost, start the service anew: CUDA error")


async def test_ready_falls_while_batches_fail_and_rises_when_they_succeed_again() -> None:
    backend = FaultyBackend()
    async with serving(backend) as client:
        backend.broken = True
        for number in range(3):
            assert (await ask(client, f"text {number}")).status_code == 500
        assert await probes(client) == (204, 503)

        backend.broken = False
        await until(client, (204, 204))  # nobody asks for vectors: ready tries the model itself
        assert (await ask(client, "text")).status_code == 200


class FaultyEyes(FakeModel):
    """Fails on one colour, where an image is scaled or where it is computed."""

    poison = bytes((1, 2, 3))

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def preprocess(self, image: Image.Image) -> bytes:
        pixels = super().preprocess(image)
        self._fail_on([pixels], "preprocess")
        return pixels

    def encode_image(self, batch: Sequence[bytes]) -> Rows:
        vectors = super().encode_image(batch)
        self._fail_on(batch, "encode")
        if self._where == "nan":
            vectors[[pixels.startswith(self.poison) for pixels in batch]] = np.nan
        return vectors

    def _fail_on(self, batch: Sequence[bytes], where: str) -> None:
        if where == self._where and any(pixels.startswith(self.poison) for pixels in batch):
            raise MemoryError


@pytest.mark.parametrize("where", ["preprocess", "encode", "nan"])
async def test_a_poisonous_image_harms_no_batch_mate(where: str) -> None:
    backend = FaultyEyes(where)
    backend.gate.clear()
    colours = [(number, 0, 0) for number in range(8)] + [(1, 2, 3)]
    async with serving(backend) as client:
        asked = [
            asyncio.create_task(
                client.post("/vectorize", json={"images": [base64_of(plain(colour))]})
            )
            for colour in colours
        ]
        await asyncio.to_thread(backend.busy.wait, 10)
        backend.gate.set()
        *good, bad = await asyncio.gather(*asked)
        assert await probes(client) == (204, 204)

    assert bad.status_code == 500
    for colour, answer in zip(colours, good, strict=False):
        wanted = vector_of(Image.new("RGB", (8, 8), colour).tobytes()).tolist()
        assert answer.json()["imageVectors"] == [pytest.approx(wanted)]


async def test_ready_falls_while_a_batch_hangs_and_rises_when_it_ends() -> None:
    backend = FaultyBackend()
    backend.gate.clear()
    async with serving(backend, request_timeout_s=0.1) as client:
        assert (await ask(client, "hangs")).status_code == 504
        await until(client, (204, 503))
        assert "has not ended" in (await client.get("/.well-known/ready")).json()["error"]

        backend.gate.set()
        await until(client, (204, 204))
        assert (await ask(client, "again")).status_code == 200


class Stuck(FakeModel):
    """Its gate holds up the threads that decode, not the model."""

    def preprocess(self, image: Image.Image) -> bytes:
        self._pass_gate()
        return super().preprocess(image)


@pytest.mark.parametrize(
    ("backend", "pool", "body"),
    [
        (Stuck(), "decode", {"images": [base64_of(plain())]}),
        (FakeModel(), "image", {"images": [base64_of(plain())]}),
        (FakeModel(), "text", {"texts": ["a"]}),
    ],
)
async def test_a_job_that_never_ends_turns_live_to_503(
    backend: FakeModel, pool: str, body: dict[str, list[str]]
) -> None:
    backend.gate.clear()
    async with serving(backend, request_timeout_s=0.1) as client:
        assert (await client.post("/vectorize", json=body)).status_code == 504
        await until(client, (204, 503))
        await until(client, (503, 503))
        reason = (await client.get("/.well-known/live")).json()["error"]
        assert reason.startswith(f"{pool}: a job has not ended for ")
        assert (await ask(client, "another")).status_code == 503
        backend.gate.set()


async def test_images_that_all_fail_are_seen_while_texts_succeed() -> None:
    class Blind(FakeModel):
        def encode_image(self, batch: Sequence[bytes]) -> Rows:
            raise ValueError("no eyes")

    async with serving(Blind()) as client:
        for number in range(3):
            image = {"images": [base64_of(plain((number, 0, 0)))]}
            assert (await client.post("/vectorize", json=image)).status_code == 500
            assert (await ask(client, f"text {number}")).status_code == 200
        ready = await client.get("/.well-known/ready")

    assert ready.status_code == 503
    assert ready.json()["error"] == "image: the last 3 batches failed: no eyes"


async def test_a_trial_that_hangs_is_given_up_and_made_again() -> None:
    class Sick(FaultyBackend):
        threads: list[str]

        def preprocess(self, image: Image.Image) -> bytes:
            self.threads.append(threading.current_thread().name)
            self._pass_gate()
            return super().preprocess(image)

    backend = Sick()
    backend.broken, backend.threads = True, []
    async with serving(backend, request_timeout_s=0.2) as client:
        for number in range(3):
            await ask(client, f"text {number}")
        backend.broken = False
        backend.gate.clear()
        assert await probes(client) == (204, 503)
        await until_true(lambda: len(backend.threads) == 1)
        await asyncio.sleep(0.3)
        backend.gate.set()  # too late: it was given up
        await until(client, (204, 204))

    assert len(backend.threads) > 1
    assert all(name.startswith("decode") for name in backend.threads)


async def until_true(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - a thread changes it
            await asyncio.sleep(0.01)


async def test_a_time_that_is_over_in_the_model_is_not_the_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Impatient(FakeModel):
        def encode_text(self, texts: Sequence[str]) -> Rows:
            raise TimeoutError

    async with serving(Impatient()) as client:
        answer = await ask(client, "a")

    assert answer.status_code == 500


async def test_a_batch_of_one_that_the_device_does_not_hold_fails_alone() -> None:
    class Tiny(FakeModel):
        def encode_text(self, texts: Sequence[str]) -> Rows:
            if len(texts) > 1 or texts[0] == "huge":
                raise DeviceMemoryError("out of memory")
            return super().encode_text(texts)

    async with serving(Tiny()) as client:
        both = [asyncio.create_task(ask(client, text)) for text in ("huge", "small")]
        huge, small = await asyncio.gather(*both)
        assert (await ask(client, "later")).status_code == 200
        assert await probes(client) == (204, 204)

    assert (huge.status_code, small.status_code) == (500, 200)
