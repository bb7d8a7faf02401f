"""LangChain's client of Ollama, which looks for the model in the list of all."""

from langchain_ollama import OllamaEmbeddings
from ollama import Client

from tests.clients.exchange import URL, answer, asked

(listed,) = Client(host=URL).list().models
model = str(listed.model).removesuffix(":latest")
client = OllamaEmbeddings(model=model, base_url=URL, validate_model_on_init=True)
documents, queries = asked()
answer([client.embed_documents(documents), [client.embed_query(query) for query in queries]])
