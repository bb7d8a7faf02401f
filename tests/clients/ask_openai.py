"""OpenAI's client in Python: `base64` is what it asks for by default."""

import asyncio
import sys
from typing import Any

from openai import AsyncOpenAI, BadRequestError, OpenAI

from tests.clients.exchange import KEY, URL, answer, asked


def options(way: str) -> dict[str, Any]:
    return {"model": "any", "encoding_format": "float"} if way == "float" else {"model": "any"}


def ask(way: str, texts: list[str]) -> list[list[float]]:
    client = OpenAI(base_url=URL, api_key=KEY)
    created = client.embeddings.create(input=texts, **options(way))
    assert created.usage.prompt_tokens == created.usage.total_tokens
    return [item.embedding for item in created.data]


async def ask_at_once(texts: list[str]) -> list[list[float]]:
    """Ask for each text apart, all at once; more than the service lets wait are asked again."""
    async with AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=10) as client:
        created = [client.embeddings.create(input=text, model="any") for text in texts]
        return [one.data[0].embedding for one in await asyncio.gather(*created)]


def refusal_of_token_ids() -> tuple[str, str | None]:
    client = OpenAI(base_url=URL, api_key=KEY)
    try:
        client.embeddings.create(input=[[9906, 1917], [42]], model="any")
    except BadRequestError as error:
        return error.message, error.param
    raise AssertionError("they were taken")


def models() -> list[str]:
    client = OpenAI(base_url=URL, api_key=KEY)
    (listed,) = client.models.list()
    return [listed.id, client.models.retrieve(listed.id).id]


match sys.argv[2]:
    case "token ids":
        answer(refusal_of_token_ids())
    case "models":
        answer(models())
    case "async":
        answer([asyncio.run(ask_at_once(texts)) for texts in asked()])
    case way:
        answer([ask(way, texts) for texts in asked()])
