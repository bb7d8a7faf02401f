"""Pictures in a request: what all interfaces say of them in OpenAPI."""

from __future__ import annotations

from typing import Annotated

import msgspec

Picture = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={
            "minLength": 1,
            "format": "picture",
            "contentEncoding": "base64",
            "contentMediaType": "image/*",
        }
    ),
]

EXAMPLE_IMAGE = (  # a red circle
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cFBTlJRwCAAAARElEQVR42n3M"
    "sQ2AMADEwOOFxBgwCpvBaBklY1CghCKiQ7hw4cL8s1Ssl9hmsQe9y8QZSIzqU42SseodRxOliXq/+z8eGIwO"
    "/AhZZ7UAAAAASUVORK5CYII="
)
