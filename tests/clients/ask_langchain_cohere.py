"""LangChain's client of Cohere."""

from langchain_cohere import CohereRerank
from langchain_core.documents import Document
from pydantic import SecretStr

from tests.clients.exchange import KEY, URL, answer, asked

(query,), documents = asked()
client = CohereRerank(base_url=URL, cohere_api_key=SecretStr(KEY), model="any", top_n=None)
of_texts = client.rerank(documents, query)
found = client.compress_documents([Document(text) for text in documents], query)
assert [one.page_content for one in found] == [documents[one["index"]] for one in of_texts]
answer([[one["index"], one["relevance_score"]] for one in of_texts])
