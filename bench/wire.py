"""The wire formats of requests: of the reference's containers, and OpenAI's embeddings.

It makes bytes only; `load.py` sends them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from bench import inputs


class Request(NamedTuple):
    """A request with an encoded body."""

    method: str
    path: str
    body: bytes = b""


NextRequest: TypeAlias = Callable[[], Request]


@dataclass(frozen=True)
class Api:
    """A wire format: one image or several texts a request.

    Attributes:
        path: path of embeddings, relative to the service's URL.
        ready_path: path of the readiness probe, from the root of the host.
        image: body before and after the base64 of an image.
        text: body before and after a text.
        vectors: function that returns the vectors of a parsed answer.
        query: body before and after the text of a search, if the format marks searches.
    """

    path: str
    ready_path: str
    image: tuple[bytes, bytes]
    text: tuple[bytes, bytes]
    vectors: Callable[[Any], list[list[float]]]
    query: tuple[bytes, bytes] | None = None

    def image_request(self, size: tuple[int, int], number: int) -> Request:
        """Return a request for the vector of image `number`."""
        before, after = self.image
        return Request("POST", self.path, before + inputs.image_b64(size, number) + after)

    def text_request(self, *texts: str) -> Request:
        """Return a request for the vectors of texts, which JSON need not escape."""
        before, after = self.text
        return Request("POST", self.path, before + '","'.join(texts).encode() + after)

    def search_request(self, text: str) -> Request:
        """Return a request for the vector of a search."""
        before, after = self.query or self.text
        return Request("POST", self.path, before + text.encode() + after)

    def ready_request(self) -> Request:
        """Return a request of the readiness probe."""
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
    """Return OpenAI's embeddings format, with images as in infinity.

    See https://github.com/michaelfeil/infinity: `modality` is the content of a `data:` URI.
    """
    common = b'{"model":' + json.dumps(model).encode() + b',"encoding_format":"float",'
    return Api(
        path="/embeddings",
        ready_path="/health",
        image=(common + b'"modality":"image","input":["data:image/jpeg;base64,', b'"]}'),
        text=(common + b'"modality":"text","input":["', b'"]}'),
        vectors=lambda answer: [entry["embedding"] for entry in answer["data"]],
    )
