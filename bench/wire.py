"""The wire formats that the driver speaks: the reference containers', and OpenAI's embeddings.

Knows bytes only; who sends them and when is `load.py`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from bench import inputs


class Request(NamedTuple):
    """One request; the body is ready to be sent."""

    method: str
    path: str
    body: bytes = b""


NextRequest: TypeAlias = Callable[[], Request]


@dataclass(frozen=True)
class Api:
    """A format of one image, or of some texts, a request.

    Attributes:
        path: where embeddings are asked for, below the service's URL.
        ready_path: where readiness is asked for, from the root of the host.
        image: what stands before and after the base64 of an image.
        text: what stands before and after a text.
        vectors: takes the vectors out of a parsed answer.
        query: what stands around a text that is a search, where the format can say so.
    """

    path: str
    ready_path: str
    image: tuple[bytes, bytes]
    text: tuple[bytes, bytes]
    vectors: Callable[[Any], list[list[float]]]
    query: tuple[bytes, bytes] | None = None

    def image_request(self, size: tuple[int, int], number: int) -> Request:
        """Ask for the vector of image `number`."""
        before, after = self.image
        return Request("POST", self.path, before + inputs.image_b64(size, number) + after)

    def text_request(self, *texts: str) -> Request:
        """Ask for the vectors of texts that JSON need not escape."""
        before, after = self.text
        return Request("POST", self.path, before + '","'.join(texts).encode() + after)

    def search_request(self, text: str) -> Request:
        """Ask for the vector of a search."""
        before, after = self.query or self.text
        return Request("POST", self.path, before + text.encode() + after)

    def ready_request(self) -> Request:
        """Ask whether the service is ready."""
        return Request("GET", self.ready_path)


def reference() -> Api:
    """Return the format of semitechnologies/multi2vec-clip, which Weaviate speaks."""
    return Api(
        path="/vectorize",
        ready_path="/.well-known/ready",
        image=(b'{"images":["', b'"]}'),
        text=(b'{"texts":["', b'"]}'),
        vectors=lambda answer: [*answer["textVectors"], *answer["imageVectors"]],
    )


def text_reference() -> Api:
    """Return the format of semitechnologies/transformers-inference: one text a request."""
    return Api(
        path="/vectors",
        ready_path="/.well-known/ready",
        image=(b'{"id":"","image":"', b'"}'),
        text=(b'{"text":"', b'","config":{"task_type":"passage"}}'),
        query=(b'{"text":"', b'","config":{"task_type":"query"}}'),
        vectors=lambda answer: [answer["vector"]],
    )


def openai(model: str) -> Api:
    """Return OpenAI's embeddings format, images marked as infinity wants them.

    See https://github.com/michaelfeil/infinity: `modality` says what a `data:` URI holds.
    """
    common = b'{"model":' + json.dumps(model).encode() + b',"encoding_format":"float",'
    return Api(
        path="/embeddings",
        ready_path="/health",
        image=(common + b'"modality":"image","input":["data:image/jpeg;base64,', b'"]}'),
        text=(common + b'"modality":"text","input":["', b'"]}'),
        vectors=lambda answer: [entry["embedding"] for entry in answer["data"]],
    )
