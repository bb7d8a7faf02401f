"""The endpoints: one module for each wire format, and the table of them."""

from __future__ import annotations

from typing import Any

from web.endpoints.base import Endpoint
from web.endpoints.clip import Vectorize
from web.endpoints.cohere import CohereRerank
from web.endpoints.nvidia import NvidiaRerank
from web.endpoints.ollama import OllamaEmbed, OllamaEmbeddings
from web.endpoints.openai import Embeddings
from web.endpoints.rerank import Rerank
from web.endpoints.text_embeddings import Embed
from web.endpoints.transformers import Vectors

ENDPOINTS: tuple[type[Endpoint[Any]], ...] = (
    Vectorize,
    Vectors,
    Embeddings,
    OllamaEmbed,
    OllamaEmbeddings,
    Embed,
    Rerank,
    CohereRerank,
    NvidiaRerank,
)
