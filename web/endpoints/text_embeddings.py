"""`POST /embed` and `POST /`, the API of text-embeddings-inference.

Source: `router/src/http` of Hugging Face's text-embeddings-inference. Weaviate's
`text2vec-huggingface` posts to its configured address, without a path. Its requests have no task,
and a search looks like an import of one text. So a request with one text counts as a query, which
has priority.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import orjson
from typing_extensions import TypedDict, override

from backends.model import EmbeddingResult, EncodeParams, ModelInfo
from config import VERSION, Settings
from errors import InvalidInputError
from inference.request import Content, EmbedInput, Postprocess
from web.endpoints import token_ids
from web.endpoints.base import TEXTS_FIRST, Description, Endpoint, ParsedRequest
from web.endpoints.dimensions import kept
from web.endpoints.error_format import ErrorFormat, ErrorInfo
from web.endpoints.json_body import Word
from web.endpoints.tasks import TASKS
from web.endpoints.token_ids import TokenIds
from web.endpoints.truncation import refuse_cut

_TYPES = {429: "Overloaded", 503: "Unhealthy"}

ErrorType: TypeAlias = Literal["Unhealthy", "Backend", "Overloaded", "Validation"]


class EmbedErrorResponse(msgspec.Struct):
    """The body of an error: a sentence, and its type."""

    error: str
    error_type: ErrorType


class EmbedErrors(ErrorFormat):
    """The error format of text-embeddings-inference."""

    prefix = "/embed"
    schema = EmbedErrorResponse

    @override
    def body(self, error_info: ErrorInfo) -> bytes:
        fault = "Backend" if error_info.status >= 500 else "Validation"
        kind = _TYPES.get(error_info.status, fault)
        return orjson.dumps({"error": error_info.message, "error_type": kind})


class Truncation(msgspec.Struct, kw_only=True):
    """Options for texts that are longer than the model's maximum."""

    truncate: Annotated[
        bool | None, msgspec.Meta(description="`false`: refuse a text that is too long, uncut")
    ] = None
    truncation_direction: Annotated[
        Literal["left", "right", "Left", "Right"] | None,
        msgspec.Meta(
            description="where a text is cut: `right`; `left` refuses one that is too long"
        ),
    ] = None


class EmbedOptions(Truncation, kw_only=True):
    """Options of a request; other fields, such as Weaviate's `options`, are ignored."""

    normalize: Annotated[
        bool | None, msgspec.Meta(description="`false`: vectors as the model gives them")
    ] = None
    prompt_name: Annotated[
        Word | None,
        msgspec.Meta(description="`query` or `document`: chooses the model's own prompt"),
    ] = None
    dimensions: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="keep so many of a vector's first numbers; of a model that cuts"),
    ] = None


class EmbedRequest(EmbedOptions):
    """The body of `POST /embed`."""

    inputs: Annotated[str | list[str], msgspec.Meta(description="a text, or a list of them")]


class EmbedIdsRequest(EmbedOptions):
    """The body with token ids, if EMBEDDINGS_TOKEN_IDS accepts them."""

    inputs: TokenIds


@dataclass(frozen=True, slots=True)
class ParsedEmbed(ParsedRequest):
    """A parsed request of texts.

    Attributes:
        first: number of leading dimensions to keep when the response is serialized; None if
            nothing is cut there (`Postprocess` cuts normalized vectors).
        uncut: the option that forbids truncation, as an error names it; empty if truncation is
            allowed.
    """

    first: int | None
    uncut: str


_DECODER = msgspec.json.Decoder(EmbedRequest)
_IDS_DECODER = msgspec.json.Decoder(EmbedIdsRequest)


class Embed(Endpoint[ParsedEmbed]):
    """The endpoint of Hugging Face's text-embeddings-inference."""

    paths = ("/embed", "/")
    kinds = TEXTS_FIRST
    description = Description(
        summary="Embed texts, as text-embeddings-inference does",
        request=EmbedRequest,
        response=list[list[float]],
        examples=[{"inputs": ["a red circle", "a big blue square"]}],
    )
    errors = EmbedErrors()

    @override
    def parse(self, body: bytes | bytearray) -> ParsedEmbed:
        ids_mode = self.settings.embeddings_token_ids
        request = token_ids.decode_either(_DECODER, _IDS_DECODER, body, "inputs", ids_mode)
        texts = _read_inputs(request)
        if not texts:
            raise InvalidInputError("an empty list: there is nothing to embed", "body").at("inputs")
        params = EncodeParams(task=_task(request.prompt_name))
        is_query = params.task == "query" or len(texts) == 1
        first = kept(request.dimensions, self.info)
        is_scaled = request.normalize is not False
        postprocess = Postprocess(first, normalize=True) if is_scaled else Postprocess()
        inputs = [
            EmbedInput(f"inputs[{i}]", "text", text, params, postprocess, is_query)
            for i, text in enumerate(texts)
        ]
        return ParsedEmbed(inputs, None if is_scaled else first, cut_forbidden_by(request))

    @override
    def serialize(self, parsed: ParsedEmbed, answers: Sequence[EmbeddingResult]) -> bytes:
        refuse_cut(parsed, answers, parsed.uncut)
        vectors = [answer.vector[: parsed.first] for answer in answers]
        return orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY)


def _read_inputs(request: EmbedRequest | EmbedIdsRequest) -> Sequence[Content]:
    if isinstance(request, EmbedIdsRequest):
        return token_ids.split_texts(request.inputs, "inputs")
    return [request.inputs] if isinstance(request.inputs, str) else request.inputs


def _task(prompt_name: str | None) -> str:
    if prompt_name is None:
        return ""
    if prompt_name not in TASKS and prompt_name != "passage":
        raise InvalidInputError(
            f"no prompt {prompt_name!r}; `query` and `document` are known", "config"
        ).at("prompt_name")
    return TASKS.get(prompt_name, prompt_name)


def cut_forbidden_by(request: Truncation) -> str:
    """Return the option that forbids to truncate a text at its end; empty if there is none."""
    if request.truncate is False:
        return "`truncate: false`"
    if request.truncation_direction in {"left", "Left"}:
        return "`truncation_direction: left`, which is not supported here"
    return ""


class EmbedInfo(TypedDict):
    """The answer of `GET /info`."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, dict[str, Any]]
    max_client_batch_size: int
    auto_truncate: bool
    version: str


def about(settings: Settings, name: str, info: ModelInfo | None, *, is_reranker: bool) -> EmbedInfo:
    """Return facts about a model, with the names of text-embeddings-inference.

    Args:
        settings: the settings of the model.
        name: its name.
        info: facts about it; None before its first load.
        is_reranker: whether it scores pairs.
    """
    label = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    most = settings.max_request_documents if is_reranker else settings.max_request_items
    return {
        "model_id": name,
        "model_sha": None,
        "model_dtype": info.precision if info else settings.precision or "float32",
        "served_model_name": name,
        "model_type": {"reranker": label} if is_reranker else {"embedding": {}},
        "max_client_batch_size": most,
        "auto_truncate": True,
        "version": VERSION,
    }
