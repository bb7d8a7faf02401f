"""A collection of images in Weaviate, created, filled and searched by the official client."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import weaviate
from weaviate import WeaviateClient
from weaviate.classes.config import Configure, DataType, Property
from weaviate.classes.data import DataObject
from weaviate.classes.query import MetadataQuery
from weaviate.exceptions import (
    WeaviateBaseError,
    WeaviateConnectionError,
    WeaviateGRPCUnavailableError,
)

from examples.contact_sheet import Match
from examples.errors import PhotosError
from examples.photo_files import Photo
from examples.rounds import Failures

MODULE = "multi2vec-clip"
_AT_A_TIME = 8  # requests in parallel: the service computes them as one batch
_NOISE = "Every object failed during insertion. Here is the set of all errors: "


class Address(NamedTuple):
    """Host and ports of Weaviate."""

    host: str
    port: int
    grpc_port: int


@contextmanager
def connected(address: Address) -> Iterator[WeaviateClient]:
    """Connect to Weaviate, and turn its errors into PhotosError.

    Raises:
        PhotosError: Weaviate cannot be reached, lacks the module, or failed.
    """
    logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)  # errors are reported here
    with _connect(address) as client:
        if MODULE not in client.get_meta()["modules"]:
            raise PhotosError(
                f"Weaviate runs without {MODULE}: start it with ENABLE_MODULES={MODULE} and with "
                "the service's address as CLIP_INFERENCE_API."
            )
        try:
            yield client
        except WeaviateBaseError as error:
            raise PhotosError(f"Weaviate failed: {error.message}") from error


def _connect(address: Address) -> WeaviateClient:
    host, port, grpc_port = address
    try:
        return weaviate.connect_to_local(host=host, port=port, grpc_port=grpc_port)
    except WeaviateGRPCUnavailableError as error:
        raise PhotosError(
            f"Weaviate answers on {host}:{port}, but not on its gRPC port {grpc_port}: publish "
            "that port too, or set --grpc-port."
        ) from error
    except WeaviateConnectionError as error:
        raise PhotosError(
            f"No Weaviate answers on {host}:{port}: start it with `docker compose up`, or set "
            "--host and --port."
        ) from error
    except WeaviateBaseError as error:
        raise PhotosError(f"The server on {host}:{port} is no Weaviate: {error}") from error


class Album:
    """A collection of images.

    Args:
        client: a client that is connected to Weaviate.
        name: name of the collection, which is created if missing.

    Raises:
        PhotosError: the collection has other properties.
    """

    def __init__(self, client: WeaviateClient, name: str) -> None:
        if not client.collections.exists(name):
            client.collections.create(
                name,
                properties=[
                    Property(name="file", data_type=DataType.TEXT),
                    Property(name="image", data_type=DataType.BLOB),
                ],
                vector_config=Configure.Vectors.multi2vec_clip(image_fields=["image"]),
            )
        self._collection = client.collections.use(name)
        properties = {each.name for each in self._collection.config.get().properties}
        if not properties >= {"file", "image"}:
            raise PhotosError(
                f"The collection {name} holds something else: name another with --collection."
            )

    def ids(self) -> set[UUID]:
        """Return the ids of the images in the collection."""
        return {each.uuid for each in self._collection.iterator(return_properties=[])}

    def send(self, images: Sequence[Photo], advance: Callable[[], None]) -> Failures:
        """Import images, several at a time; return the failed files with reasons.

        Each image is a call of its own, so that its error is known: if a whole batch fails, the
        client joins all reasons, and `batch.stream()` of Weaviate 1.39 names wrong objects. It
        costs nothing, as the service forms batches.

        Args:
            images: the images to import.
            advance: called after each image.
        """
        failures: Failures = {}
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for image, reason in zip(images, pool.map(self._insert, images), strict=True):
                if reason:
                    failures[image.path] = reason
                advance()
        return failures

    def _insert(self, image: Photo) -> str | None:
        """Import an image, replacing an object with its id; return the error, or None."""
        try:
            content = base64.b64encode(image.path.read_bytes()).decode()
            properties = {"file": str(image.path.resolve()), "image": content}
            self._collection.data.insert_many([DataObject(properties, uuid=image.id)])
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        except WeaviateBaseError as error:
            return error.message.removeprefix(_NOISE).partition("\n")[0]
        return None

    def nearest(self, query: str | Path, count: int) -> list[Match]:
        """Return the images nearest to a sentence, or to an image file."""
        find, distance = self._collection.query, MetadataQuery(distance=True)
        if isinstance(query, Path):
            found = find.near_image(query, limit=count, return_metadata=distance)
        else:
            found = find.near_text(query, limit=count, return_metadata=distance)
        return [self._match(each.uuid, each.metadata.distance or 0.0) for each in found.objects]

    def _match(self, uuid: UUID, distance: float) -> Match:
        # Images are fetched one by one: together they may exceed Weaviate's maximum answer.
        found = self._collection.query.fetch_object_by_id(uuid, return_properties=["file", "image"])
        image = base64.b64decode(str(found.properties["image"]))
        return Match(Path(str(found.properties["file"])), image, distance)
