"""LangChain's client of Hugging Face; that of the hub in it is given the service's address."""

from huggingface_hub import InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings

from tests.clients.exchange import KEY, URL, answer, asked

client = HuggingFaceEndpointEmbeddings(
    model="any/model", huggingfacehub_api_token=KEY, model_kwargs={"truncate": True}
)
client.client = InferenceClient(model=URL, token=KEY)
documents, queries = asked()
answer([client.embed_documents(documents), [client.embed_query(query) for query in queries]])
