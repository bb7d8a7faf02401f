"""Cohere's own client, of both versions of its API."""

import asyncio
import sys

import cohere

from tests.clients.exchange import KEY, URL, answer, asked

(query,), documents = asked()
match sys.argv[2]:
    case "v1":
        texts = [{"text": text} for text in documents]
        ranked = cohere.Client(KEY, base_url=URL).rerank(
            query=query, documents=texts, model="any", return_documents=True
        )
        assert all(one.document.text == documents[one.index] for one in ranked.results)
    case "v2":
        ranked = cohere.ClientV2(KEY, base_url=URL).rerank(
            query=query, documents=documents, model="any", max_tokens_per_doc=512
        )
    case "async":
        client = cohere.AsyncClientV2(KEY, base_url=URL)
        ranked = asyncio.run(client.rerank(query=query, documents=documents, model="any", top_n=3))
    case "wrong":
        try:
            cohere.ClientV2(KEY, base_url=URL).rerank(
                query=query, documents=documents, model="any", top_n=0
            )
        except cohere.UnprocessableEntityError as error:
            answer(error.body["message"])
            sys.exit()
assert ranked.id
answer([[one.index, one.relevance_score] for one in ranked.results])
