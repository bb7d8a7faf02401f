"""`/api/`, as clients of Ollama ask it: Weaviate's `text2vec-ollama` for one, which sends batches.

Source: Ollama's `server/routes.go` and `docs/api.md`. No task is said here, and a search looks like
an import of one text: so a request with one text goes before all that have more.
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
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.dimensions import kept
from web.endpoints.error_format import SentenceErrors
from web.endpoints.json_body import decode

ModelName = Annotated[
    str | None,
    msgspec.Meta(
        description="any name, with or without `:latest`: it is sent back, and chooses nothing"
    ),
]

_BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


class OllamaErrors(SentenceErrors):
    """Errors as Ollama words them; what cannot be read is 400."""

    prefix = "/api/"

    @override
    def status(self, status: int) -> int:
        return 400 if status == 422 else status


class OllamaRequest(msgspec.Struct):
    """What `POST /api/embed` takes; other fields mean nothing here."""

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
    """What `POST /api/embed` answers, in the order of the request; vectors have length 1."""

    model: str
    embeddings: list[list[float]]
    prompt_eval_count: int


class OllamaPromptRequest(msgspec.Struct):
    """What `POST /api/embeddings` takes; other fields mean nothing here."""

    model: ModelName = None
    prompt: Annotated[str | None, msgspec.Meta(description="a text")] = None


class OllamaPromptResponse(msgspec.Struct):
    """What `POST /api/embeddings` answers: the vector as the model gives it."""

    embedding: list[float]


@dataclass(frozen=True, slots=True)
class OllamaAsk(ParsedRequest):
    """Texts.

    Attributes:
        model: its name, as the client said it.
    """

    model: str


_DECODER = msgspec.json.Decoder(OllamaRequest)
_PROMPT_DECODER = msgspec.json.Decoder(OllamaPromptRequest)


class OllamaEmbed(Endpoint[OllamaAsk]):
    """The interface of Ollama for several texts."""

    paths = ("/api/embed",)
    description = Description(
        summary="Embed texts, as Ollama does",
        request=OllamaRequest,
        response=OllamaResponse,
        examples=[{"model": "any", "input": ["a red circle", "a big blue square"]}],
    )
    errors = OllamaErrors()

    @override
    def parse(self, body: bytes | bytearray) -> OllamaAsk:
        wanted = decode(_DECODER, body)
        given = wanted.input or []  # Ollama answers none to an empty text that stands alone, too
        texts = [given] if isinstance(given, str) else given
        postprocess = self._postprocess(wanted.dimensions or 0)
        inputs = [
            EmbedInput(
                f"input[{i}]", "text", text, postprocess=postprocess, is_query=len(texts) == 1
            )
            for i, text in enumerate(texts)
        ]
        model = self.info.name if wanted.model is None else wanted.model
        return OllamaAsk(inputs, model)

    def _postprocess(self, dimensions: int) -> Postprocess:
        cuts = 0 < dimensions < self.info.dimensions
        return Postprocess(kept(dimensions, self.info) if cuts else None, normalize=True)

    @override
    def serialize(self, ask: OllamaAsk, answers: Sequence[EmbeddingResult]) -> bytes:
        content = {
            "model": ask.model,
            "embeddings": [answer.vector for answer in answers],
            "prompt_eval_count": sum(answer.tokens for answer in answers),
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


class OllamaEmbeddings(Endpoint[ParsedRequest]):
    """The older interface of Ollama, for one text: as there, its vector is not scaled."""

    paths = ("/api/embeddings",)
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
    def serialize(self, ask: ParsedRequest, answers: Sequence[EmbeddingResult]) -> bytes:
        # Without a text Ollama only loads the model, and answers no number.
        embedding = answers[0].vector if answers else ()
        return orjson.dumps({"embedding": embedding}, option=orjson.OPT_SERIALIZE_NUMPY)


class OllamaDetails(TypedDict):
    """What a model is made of."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(TypedDict):
    """A model, as `GET /api/tags` lists it."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(TypedDict):
    """What `GET /api/tags` answers."""

    models: list[OllamaModel]


class OllamaVersion(TypedDict):
    """What `GET /api/version` answers: the version of this service, not of an Ollama."""

    version: str


def tags(info: ModelInfo, loaded_at: int) -> OllamaTags:
    """List the model that is loaded; its size is that of its weights in memory."""
    name = info.name
    tagged = name if ":" in name else f"{name}:latest"
    model: OllamaModel = {
        "name": tagged,
        "model": tagged,
        "modified_at": datetime.fromtimestamp(loaded_at, UTC).isoformat(),
        "size": info.parameters * _BYTES[info.precision],
        "digest": info.vector_space,
        "details": {
            "parent_model": "",
            "format": info.runtime,
            "family": info.family,
            "families": [info.family],
            "parameter_size": f"{info.parameters / 1e6:.1f}M",
            "quantization_level": info.precision,
        },
    }
    return {"models": [model]}
