"""The API of Ollama (`/api/`), for clients such as Weaviate's `text2vec-ollama`.

Source: Ollama's `server/routes.go` and `docs/api.md`. Requests have no task, and a search looks
like an import of one text. So a request with one text counts as a query, which has priority.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import orjson
from typing_extensions import TypedDict, override

from backends.model import EmbeddingResult, ModelInfo, Precision
from inference.request import EmbedInput, Postprocess
from web.endpoints.base import TEXTS_FIRST, Description, Endpoint, ParsedRequest
from web.endpoints.dimensions import kept
from web.endpoints.error_format import SentenceErrors
from web.endpoints.json_body import decode

ModelName = Annotated[
    str | None,
    msgspec.Meta(
        description="any name, with or without `:latest`: it is sent back, and chooses among "
        "several models"
    ),
]

_BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


class OllamaErrors(SentenceErrors):
    """The error format of Ollama; invalid bodies are 400."""

    prefix = "/api/"

    @override
    def status(self, status: int) -> int:
        return 400 if status == 422 else status


class OllamaRequest(msgspec.Struct):
    """The body of `POST /api/embed`; other fields are ignored."""

    model: ModelName = None
    input: Annotated[
        str | list[str] | None, msgspec.Meta(description="a text, or a list of them")
    ] = None
    dimensions: Annotated[
        int | None,
        msgspec.Meta(
            description="keep so many of a vector's first numbers, of a model that cuts; 0, or "
            "more than there are, keeps all"
        ),
    ] = None


class OllamaResponse(msgspec.Struct):
    """The answer of `POST /api/embed`, in the order of the request; vectors have length 1."""

    model: str
    embeddings: list[list[float]]
    prompt_eval_count: int


class OllamaPromptRequest(msgspec.Struct):
    """The body of `POST /api/embeddings`; other fields are ignored."""

    model: ModelName = None
    prompt: Annotated[str | None, msgspec.Meta(description="a text")] = None


class OllamaPromptResponse(msgspec.Struct):
    """The answer of `POST /api/embeddings`: the model's vector, not normalized."""

    embedding: list[float]


@dataclass(frozen=True, slots=True)
class ParsedOllama(ParsedRequest):
    """A parsed request of texts.

    Attributes:
        model: the model's name in the request.
    """

    model: str


_DECODER = msgspec.json.Decoder(OllamaRequest)
_PROMPT_DECODER = msgspec.json.Decoder(OllamaPromptRequest)


class OllamaEmbed(Endpoint[ParsedOllama]):
    """Ollama's endpoint for several texts."""

    paths = ("/api/embed",)
    kinds = TEXTS_FIRST
    description = Description(
        summary="Embed texts, as Ollama does",
        request=OllamaRequest,
        response=OllamaResponse,
        examples=[{"model": "any", "input": ["a red circle", "a big blue square"]}],
    )
    errors = OllamaErrors()

    @override
    def parse(self, body: bytes | bytearray) -> ParsedOllama:
        request = decode(_DECODER, body)
        given = request.input or []  # Ollama also returns no vectors for a single empty text
        texts = [given] if isinstance(given, str) else given
        dimensions = request.dimensions or 0
        cuts = 0 < dimensions < self.info.dimensions
        postprocess = Postprocess(kept(dimensions, self.info) if cuts else None, normalize=True)
        inputs = [
            EmbedInput(
                f"input[{i}]", "text", text, postprocess=postprocess, is_query=len(texts) == 1
            )
            for i, text in enumerate(texts)
        ]
        return ParsedOllama(inputs, self.model_name(request.model))

    @override
    def serialize(self, parsed: ParsedOllama, answers: Sequence[EmbeddingResult]) -> bytes:
        content = {
            "model": parsed.model,
            "embeddings": [answer.vector for answer in answers],
            "prompt_eval_count": sum(answer.tokens for answer in answers),
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


class OllamaEmbeddings(Endpoint[ParsedRequest]):
    """Ollama's older endpoint for one text; its vector is not normalized, as in Ollama."""

    paths = ("/api/embeddings",)
    kinds = TEXTS_FIRST
    description = Description(
        summary="Embed one text, as older clients of Ollama ask for it",
        request=OllamaPromptRequest,
        response=OllamaPromptResponse,
        examples=[{"model": "any", "prompt": "a red circle"}],
    )
    errors = OllamaErrors()

    @override
    def parse(self, body: bytes | bytearray) -> ParsedRequest:
        prompt = decode(_PROMPT_DECODER, body).prompt
        return ParsedRequest(
            [EmbedInput("prompt", "text", prompt, is_query=True)] if prompt else []
        )

    @override
    def serialize(self, parsed: ParsedRequest, answers: Sequence[EmbeddingResult]) -> bytes:
        # Without a text Ollama only loads the model, and returns an empty vector.
        embedding = answers[0].vector if answers else ()
        return orjson.dumps({"embedding": embedding}, option=orjson.OPT_SERIALIZE_NUMPY)


class OllamaDetails(TypedDict):
    """Details of a model: family and size."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(TypedDict):
    """An entry of `GET /api/tags`."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(TypedDict):
    """The answer of `GET /api/tags`."""

    models: list[OllamaModel]


class OllamaVersion(TypedDict):
    """The answer of `GET /api/version`: the version of this service."""

    version: str


def tag(name: str, info: ModelInfo | None, loaded_at: int) -> OllamaModel:
    """Return the entry of a model; its size is that of the weights in memory.

    Args:
        name: its name.
        info: facts about it; None before its first load.
        loaded_at: time at which the service found the model, in seconds since 1970.
    """
    tagged = name if ":" in name else f"{name}:latest"
    return {
        "name": tagged,
        "model": tagged,
        "modified_at": datetime.fromtimestamp(loaded_at, UTC).isoformat(),
        "size": info.parameters * _BYTES[info.precision] if info else 0,
        "digest": info.vector_space if info else "",
        "details": {
            "parent_model": "",
            "format": info.runtime if info else "",
            "family": info.family if info else "",
            "families": [info.family] if info else [],
            "parameter_size": f"{info.parameters / 1e6:.1f}M" if info else "",
            "quantization_level": info.precision if info else "",
        },
    }
