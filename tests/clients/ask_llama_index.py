"""LlamaIndex's client for whatever is like OpenAI."""

from llama_index.embeddings.openai_like import OpenAILikeEmbedding

from tests.clients.exchange import KEY, URL, answer, asked

client = OpenAILikeEmbedding(model_name="any", api_base=URL, api_key=KEY)
documents, queries = asked()
answer(
    [
        client.get_text_embedding_batch(documents),
        [client.get_query_embedding(query) for query in queries],
    ]
)
