"""A backend that fails on demand: whom it harms, and what health says of it."""

import asyncio
from collections.abc import Sequence

import httpx
import numpy as np
import pytest

from inference.backends.base import Embeddings
from inference.errors import DeviceLostError, DeviceMemoryError
from tests.asgi import serving
from tests.fakes import FakeBackend, vector_of

pytestmark = pytest.mark.anyio


class FaultyBackend(FakeBackend):
    """Fails in the way that a text asks for."""

    broken = False

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
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
        for _ in range(100):  # nobody asks for vectors now: ready itself tries the model again
            if await probes(client) == (204, 204):
                break
            await asyncio.sleep(0.01)
        assert await probes(client) == (204, 204)
        assert (await ask(client, "text")).status_code == 200
