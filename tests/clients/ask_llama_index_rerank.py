"""LlamaIndex's postprocessors that let another service rank."""

import sys

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.nvidia_rerank import NVIDIARerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.clients.exchange import KEY, URL, answer, asked

(query,), documents = asked()
count = len(documents)
clients = {
    "cohere": lambda: CohereRerank(top_n=count, model="any", api_key=KEY, base_url=URL),
    "tei": lambda: TextEmbeddingInference(top_n=count, base_url=URL, auth_token=f"Bearer {KEY}"),
    "nvidia": lambda: NVIDIARerank(top_n=count, base_url=URL, api_key=KEY),
}
nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in documents]
found = clients[sys.argv[2]]().postprocess_nodes(nodes, query_str=query)
answer([[documents.index(one.text), one.score] for one in found])
