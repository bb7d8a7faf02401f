"""LangChain's client of Hugging Face; that of the hub in it is given the service's address."""

import os

os.environ.pop("HF_HUB_OFFLINE", None)  # of the tests: this client refuses to ask anybody then

from huggingface_hub import InferenceClient  # noqa: E402
from langchain_huggingface import HuggingFaceEndpointEmbeddings  # noqa: E402

from tests.clients.exchange import KEY, URL, answer, asked  # noqa: E402

client = HuggingFaceEndpointEmbeddings(
    model="any/model", huggingfacehub_api_token=KEY, model_kwargs={"truncate": True}
)
client.client = InferenceClient(model=URL, token=KEY)
documents, queries = asked()
answer([client.embed_documents(documents), [client.embed_query(query) for query in queries]])
