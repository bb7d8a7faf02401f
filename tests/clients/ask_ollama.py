"""Ollama's own client: texts in a list, and each by the older way."""

import sys

from ollama import Client

from tests.clients.exchange import URL, answer, asked

client = Client(host=URL)
documents, queries = asked()
(listed,) = client.list().models
name = str(listed.model)
assert name.endswith(":latest")
model = name if sys.argv[2] == "with tag" else name.removesuffix(":latest")
embedded = client.embed(model=model, input=documents, truncate=True, keep_alive="5m")
assert embedded.model == model
answer(
    [
        [list(vector) for vector in embedded.embeddings],
        [list(client.embeddings(model=model, prompt=query).embedding) for query in queries],
    ]
)
