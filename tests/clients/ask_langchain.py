"""LangChain's client, with the option without which it sends token ids."""

from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from tests.clients.exchange import KEY, URL, answer, asked

client = OpenAIEmbeddings(
    model="any", base_url=URL, api_key=SecretStr(KEY), check_embedding_ctx_length=False
)
documents, queries = asked()
answer([client.embed_documents(documents), [client.embed_query(query) for query in queries]])
