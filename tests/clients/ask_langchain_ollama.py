"""LangChain's client of Ollama, which looks for the model in the list of all."""

import sys

from langchain_ollama import OllamaEmbeddings

from tests.clients.exchange import URL, answer, asked

client = OllamaEmbeddings(model=sys.argv[2], base_url=URL, validate_model_on_init=True)
documents, queries = asked()
answer([client.embed_documents(documents), [client.embed_query(query) for query in queries]])
