#!/usr/bin/env python3
"""A black-box test of a running container over HTTP; it needs only Python.

    ./smoke_test.py [http://localhost:8080] [--wait 120] [--reference] [--cacert FILE | --insecure]

It waits until the container is ready, then sends the requests of Weaviate and of users: texts and
images, texts only, or documents to rerank. `--reference` skips tests that Weaviate's own containers
fail. A token goes into the URL, as in Weaviate: http://any:TOKEN@localhost:8080. It exits with 1 if
an answer is wrong.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

RED, BLUE = (  # circles, 32x32 PNG
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cFBTlJRwCAAAARElEQVR42n3M"
    "sQ2AMADEwOOFxBgwCpvBaBklY1CghCKiQ7hw4cL8s1Ssl9hmsQe9y8QZSIzqU42SseodRxOliXq/+z8eGIwO"
    "/AhZZ7UAAAAASUVORK5CYII=",
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX///8UKNyc1eiHAAAARElEQVR42n3NsRGA"
    "IBTA0Me3cAzZRDZzNUZhBAfwwIKzxBS5dOGf/cbxCDmEkmyqFIkSEEGetVSnzRpUroGzC61/jwUvM1QM6BMEposA"
    "AAAASUVORK5CYII=",
)


class Answer(NamedTuple):
    """The status and the parsed body of an answer."""

    status: int
    body: Any


class Container:
    """A running container.

    Args:
        url: its URL as in Weaviate's settings; a token in it (`http://any:TOKEN@host:8080`) is
            sent.
        tls: how its certificate is checked; None for the certificate authorities of this machine.

    Attributes:
        url: the URL without the token.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"//{url}")
        is_safe = parts.scheme == "https"
        self._connect = (
            partial(http.client.HTTPSConnection, context=tls)
            if is_safe
            else http.client.HTTPConnection
        )
        self._address = (parts.hostname or "localhost", parts.port or (443 if is_safe else 80))
        self._below = parts.path.rstrip("/")
        self.url = f"{parts.scheme or 'http'}://{parts.netloc.rpartition('@')[2]}{self._below}"
        self._token = unquote(parts.password or "")

    def ask(self, method: str, path: str, body: object = None, kind: str = "json") -> Answer:
        """Send a request; `kind` is the subtype of its content type."""
        headers = {"Content-Type": f"application/{kind}"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        content = None if body is None else json.dumps(body).encode()
        connection = self._connect(*self._address, timeout=60)
        connection.request(method, self._below + path, content, headers)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        return Answer(answer.status, _parsed(raw))

    def serves(self, path: str) -> bool:
        """Return whether it serves a path."""
        return self.ask("POST", path, {}).status not in {404, 405}

    def modalities(self) -> list[str]:
        """Return the modalities that `GET /meta` lists; the references list none."""
        meta = self.ask("GET", "/meta").body
        service = meta.get("service") if isinstance(meta, dict) else None
        return service["modalities"] if service else []

    def reads_images(self) -> bool:
        """Return whether its model reads images."""
        modalities = self.modalities()
        return "image" in modalities if modalities else self.serves("/vectorize")

    def ranks_documents(self) -> bool:
        """Return whether its model is a reranker, and makes no vectors."""
        if modalities := self.modalities():
            return "pair" in modalities
        return self.serves("/rerank") and not self.serves("/vectors")

    def rerank(self, query: str, documents: list[str]) -> list[float]:
        """Request the scores of documents, as Weaviate does, and check the answer's form."""
        body = {"query": query, "documents": documents, "property": ""}
        answer = self.ask("POST", "/rerank", body)
        check(answer.status == 200, f"200 expected: {answer}")
        check([one["document"] for one in answer.body["scores"]] == documents, "another order")
        scores = [float(one["score"]) for one in answer.body["scores"]]
        check(all(map(math.isfinite, scores)), "numbers expected")
        return scores

    def vectorize(self, **body: object) -> dict[str, list[list[float]]]:
        """Request vectors by `/vectorize`, and check the answer's form."""
        answer = self.ask("POST", "/vectorize", body)
        check(answer.status == 200, f"200 expected: {answer}")
        vectors: dict[str, list[list[float]]] = answer.body
        check(
            set(vectors) == {"textVectors", "imageVectors"}, f"both keys expected: {set(vectors)}"
        )
        for vector in vectors["textVectors"] + vectors["imageVectors"]:
            check(all(map(math.isfinite, vector)) and any(vector), "numbers expected")
        return vectors


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:  # not every error is JSON
        return raw.decode(errors="replace")


def check(fine: bool, otherwise: str) -> None:
    """Raise an AssertionError with a message if a condition is false."""
    if not fine:
        raise AssertionError(otherwise[:300])


def error_message(body: Any) -> str:
    """Return the message of an error body, in any of the known forms."""
    error = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message or "")[:300]


def wait_until_ready(container: Container, seconds: float) -> None:
    """Poll until the container is ready, as Weaviate does; print the reason of the wait."""
    ends_s = time.monotonic() + seconds
    last_reason = ""
    while time.monotonic() < ends_s:
        try:
            answer = container.ask("GET", "/.well-known/ready")
            if answer.status < 300:
                return
            reason = f"{answer.status} {error_message(answer.body)}"
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        if reason != last_reason:
            last_reason = reason
            print(f"waiting for {container.url} for up to {seconds:g} s: {reason}", flush=True)
        time.sleep(0.25)
    raise AssertionError(f"{container.url} is not ready after {seconds:g} s: {last_reason}")


def test_probes(container: Container) -> None:
    """Live and ready answer 204 without a body."""
    for probe in ("live", "ready"):
        answer = container.ask("GET", f"/.well-known/{probe}")
        check(answer == (204, None), f"{probe}: {answer}")


def test_meta(container: Container) -> None:
    """The body of `GET /meta` is a JSON object."""
    answer = container.ask("GET", "/meta")
    check(answer.status == 200 and isinstance(answer.body, dict), str(answer))


def test_a_text(container: Container) -> None:
    """A text alone, its empty list left out, as Weaviate sends it."""
    vectors = container.vectorize(texts=["a red circle"])
    check(len(vectors["textVectors"]) == 1 and vectors["imageVectors"] == [], "one text expected")


def test_a_text_by_itself(container: Container) -> None:
    """A text by /vectors, as Weaviate's modules of texts send it."""
    config = {"pooling_strategy": "masked_mean", "task_type": "passage"}
    body = {"text": "a red circle", "dims": 0, "vector": None, "error": "", "config": config}
    answer = container.ask("POST", "/vectors", body)
    check(answer.status == 200 and answer.body["text"] == "a red circle", str(answer))
    vector = answer.body["vector"]
    check(len(vector) == answer.body["dim"] and any(vector), "as many numbers as dim expected")
    other = container.ask("POST", "/vectors", {**body, "text": "a blue square"}).body["vector"]
    check(vector != other, "two texts, one vector")


def test_an_image(container: Container) -> None:
    """An image alone."""
    vectors = container.vectorize(images=[RED])
    check(len(vectors["imageVectors"]) == 1 and vectors["textVectors"] == [], "one image expected")


def test_several(container: Container) -> None:
    """Several texts and images get their vectors in the order of the request."""
    both = container.vectorize(texts=["red", "blue"], images=[RED, BLUE])
    alone = container.vectorize(texts=["blue"], images=[BLUE])
    for key in both:
        check(len(both[key]) == 2, f"two {key} expected")
        check(both[key][0] != both[key][1], f"{key}: two inputs, one vector")
        differences = [abs(a - b) for a, b in zip(both[key][1], alone[key][0], strict=True)]
        check(max(differences) < 1e-3, f"{key}: not in the order of the request")


def test_an_error(container: Container) -> None:
    """An error is a string under `error`."""
    answer = container.ask("POST", "/vectorize", {"images": ["bm90IGFuIGltYWdl"]})
    check(answer.status >= 400 and isinstance(answer.body.get("error"), str), str(answer))


def test_the_documented_call(container: Container) -> None:
    """The call in the documentation: curl sends JSON with the content type of a form."""
    body = {"texts": ["foo bar"], "images": []}
    answer = container.ask("POST", "/vectorize", body, kind="x-www-form-urlencoded")
    check(answer.status == 200 and len(answer.body["textVectors"]) == 1, str(answer))


def test_a_bad_image_is_named(container: Container) -> None:
    """The message names the bad image, and the status is a client error."""
    answer = container.ask("POST", "/vectorize", {"images": [RED, "bm90IGFuIGltYWdl"]})
    check(answer.status == 422 and answer.body["error"].startswith("images[1]: "), str(answer))


def test_a_bad_text_is_named(container: Container) -> None:
    """A bad text by /vectors is named, and the status is a client error."""
    answer = container.ask("POST", "/vectors", {"text": 5})
    check(answer.status == 422 and answer.body["error"].startswith("text: "), str(answer))


def test_documents(container: Container) -> None:
    """Documents are scored in the order of the request, an empty one too."""
    documents = ["Flour, water, salt; then wait.", "", "A boat."]
    together = container.rerank("How do I make bread?", documents)
    check(len(set(together)) > 1, "documents that differ, one score")
    for document, score in zip(documents, together, strict=True):
        (alone,) = container.rerank("How do I make bread?", [document])
        check(abs(alone - score) < 1e-3, "alone a document has another score")


def test_one_document(container: Container) -> None:
    """The old form has one document as a property."""
    answer = container.ask("POST", "/rerank", {"query": "bread", "property": "Flour."})
    check(answer.status == 200 and isinstance(answer.body["score"], float), str(answer))


def test_a_bad_document_is_named(container: Container) -> None:
    """A bad document is named, and the fault is the request's."""
    answer = container.ask("POST", "/rerank", {"query": "bread", "documents": ["a", 5]})
    check(answer.status == 422 and answer.body["error"].startswith("documents[1]"), str(answer))


def test_other_ways_to_rank(container: Container) -> None:
    """Cohere's API and NVIDIA's give the best document first."""
    documents = ["Flour, water, salt; then wait.", "A boat."]
    scores = container.rerank("How do I make bread?", documents)
    best = scores.index(max(scores))
    body = {"model": "any", "query": "How do I make bread?", "documents": documents, "top_n": 1}
    results = container.ask("POST", "/v1/rerank", body).body["results"]
    check([one["index"] for one in results] == [best], f"document {best} expected: {results}")
    passages = [{"text": text} for text in documents]
    body = {"query": {"text": "How do I make bread?"}, "passages": passages}
    rankings = container.ask("POST", "/v1/ranking", body).body["rankings"]
    check(rankings[0]["index"] == best, f"document {best} expected: {rankings}")


Test = Callable[[Container], None]
# Tests of every container, of containers with an interface or with images, and of this service
# alone.
OF_ALL: tuple[Test, ...] = (test_probes, test_meta)
OF_VECTORIZE: tuple[Test, ...] = (test_a_text,)
OF_VECTORS: tuple[Test, ...] = (test_a_text_by_itself,)
OF_IMAGES: tuple[Test, ...] = (test_an_image, test_several, test_an_error)
OF_THIS_SERVICE: tuple[Test, ...] = (test_the_documented_call, test_a_bad_text_is_named)
OF_RERANKERS: tuple[Test, ...] = (test_documents, test_one_document)
OF_ITS_RERANKERS: tuple[Test, ...] = (test_a_bad_document_is_named, test_other_ways_to_rank)
OF_ITS_IMAGES: tuple[Test, ...] = (test_a_bad_image_is_named,)


def tests_for(container: Container, is_reference: bool) -> tuple[Test, ...]:
    """Return the tests that fit a container and its model."""
    if container.ranks_documents():
        return (*OF_ALL, *OF_RERANKERS, *(() if is_reference else OF_ITS_RERANKERS))
    of_images = OF_IMAGES if is_reference else OF_IMAGES + OF_ITS_IMAGES
    return (
        *OF_ALL,
        *(OF_VECTORIZE if container.serves("/vectorize") else ()),
        *(OF_VECTORS if container.serves("/vectors") else ()),
        *(of_images if container.reads_images() else ()),
        *(() if is_reference else OF_THIS_SERVICE),
    )


def main() -> int:
    """Run all tests, and print their results."""
    form = argparse.ArgumentParser(description="Test a running container over HTTP.")
    form.add_argument("url", nargs="?", default="http://localhost:8080")
    form.add_argument("--wait", type=float, default=120, help="seconds until it must be ready")
    form.add_argument("--reference", action="store_true", help="leave out its known defects")
    form.add_argument("--cacert", metavar="FILE", help="trust this certificate of an https:// URL")
    form.add_argument("--insecure", action="store_true", help="trust any certificate")
    options = form.parse_args()
    tls = ssl.create_default_context(cafile=options.cacert)
    if options.insecure:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    container = Container(options.url, tls)
    failures = 0
    try:
        wait_until_ready(container, options.wait)
    except AssertionError as error:
        print(f"FAILED  {error}")
        return 1
    tests = tests_for(container, options.reference)
    for test in tests:
        failures += run(test, container)
    print(f"{len(tests) - failures} of {len(tests)} passed")
    return int(failures > 0)


def run(test: Test, container: Container) -> int:
    """Run a test; return 1 if it fails, else 0."""
    try:
        test(container)
    except Exception as error:  # any error fails the test
        print(f"FAILED  {test.__doc__}  {type(error).__name__}: {error}")
        return 1
    print(f"ok      {test.__doc__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
