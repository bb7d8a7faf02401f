"""`POST /vectorize` as it answered before there were other interfaces, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import serving
from tests.fakes import FakeModel

pytestmark = pytest.mark.anyio

RECORDED = json.loads(Path(__file__).with_name("recorded").joinpath("vectorize.json").read_text())


@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
async def test_an_answer_is_the_recorded_one(case: dict[str, Any]) -> None:
    async with serving(FakeModel(), **case["settings"]) as client:
        answer = await client.request(
            case["method"], case["path"], content=case["body"], headers=case["headers"]
        )

    assert (answer.status_code, answer.text) == (case["status"], case["answer"])
    for name in ("content-type", "allow", "retry-after", "content-length"):
        assert answer.headers.get(name) == case["answer_headers"].get(name), name
