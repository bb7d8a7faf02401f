"""Cohere's own client, of both versions of its API."""

import asyncio
import sys
from typing import Any

import cohere

from tests.clients.exchange import KEY, URL, answer, asked

(query,), documents = asked()


def ranked(way: str) -> Any:
    """Return what the client got; of a wrong request, the sentence of its error."""
    if way == "v1":
        texts = [{"text": text} for text in documents]
        found = cohere.Client(KEY, base_url=URL).rerank(
            query=query, documents=texts, model="any", return_documents=True
        )
        assert all(one.document.text == documents[one.index] for one in found.results)
        return found
    if way == "async":
        client = cohere.AsyncClientV2(KEY, base_url=URL)
        return asyncio.run(client.rerank(query=query, documents=documents, model="any", top_n=3))
    return cohere.ClientV2(KEY, base_url=URL).rerank(
        query=query,
        documents=documents,
        model="any",
        max_tokens_per_doc=512,
        top_n=0 if way == "wrong" else None,
    )


try:
    got = ranked(sys.argv[2])
except cohere.UnprocessableEntityError as error:
    answer(error.body["message"])
else:
    assert got.id
    answer([[one.index, one.relevance_score] for one in got.results])
