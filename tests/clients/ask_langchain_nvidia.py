"""LangChain's client of NVIDIA."""

from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank

from tests.clients.exchange import KEY, URL, answer, asked

(query,), documents = asked()
client = NVIDIARerank(
    base_url=URL, api_key=KEY, top_n=len(documents), usage_telemetry_enabled=False
)
found = client.compress_documents([Document(text) for text in documents], query)
answer([[documents.index(one.page_content), one.metadata["relevance_score"]] for one in found])
