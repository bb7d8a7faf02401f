"""LiteLLM, with the cost map that it ships, as it would fetch another."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from tests.clients.exchange import KEY, URL, answer, asked


def ask(texts: list[str]) -> list[list[float]]:
    created = litellm.embedding(model="openai/any", input=texts, api_base=URL, api_key=KEY)
    return [item["embedding"] for item in created.data]


answer([ask(texts) for texts in asked()])
