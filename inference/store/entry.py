"""The format of entries in a store: the key of an input, and its vector with a keyed digest.

    key    = SHA-256 of the item's key (vector space, modality, options, content) and of the
             versions of the libraries that shape inputs and numbers
    value  = digest [16] | tokens u32 | dimensions u32 | truncated u8 | 0 [3] | vector f32 ...

All numbers are little-endian. The digest covers key and value, and is keyed by VECTOR_CACHE_SECRET:
so a value is rejected if it was changed, or was moved to another key. Increase FORMAT with every
change of the format: it is part of the names in the stores.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from backends.model import EmbeddingResult, RuntimeName

FORMAT = 1

_DIGEST_BYTES = 16
_HEAD = struct.Struct("<IIB3x")
_VECTOR_AT = _DIGEST_BYTES + _HEAD.size
_FLOAT = np.dtype("<f4")
_INPUTS = ("numpy", "pillow", "pillow-heif", "tokenizers", "sentencepiece", "nltk", "ftfy")
_LIBRARIES: dict[RuntimeName, tuple[str, ...]] = {
    "openvino": ("openvino", *_INPUTS),
    "numpy": _INPUTS,
    "torch": (
        *("torch", "torchvision", "transformers", "sentence-transformers", "open_clip_torch"),
        *_INPUTS,
    ),
}


def library_versions(runtime: RuntimeName) -> dict[str, str]:
    """Return the versions of the libraries that a runtime's vectors depend on."""
    versions = {}
    for name in _LIBRARIES[runtime]:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


class EntryFormat:
    """Encodes and decodes keys and values.

    Args:
        dimensions: dimensions of the vectors; 1 for scores.
        libraries: versions of the libraries that shape the vectors.
        secret: key of the digest; without it anyone with write access to the store can forge
            vectors.
    """

    def __init__(self, dimensions: int, libraries: Mapping[str, str], secret: str = "") -> None:
        self.dimensions = dimensions
        self._salt = hashlib.sha256(json.dumps(dict(libraries), sort_keys=True).encode())
        self._secret = hashlib.sha256(secret.encode()).digest() if secret else b""
        self._nbytes = _VECTOR_AT + dimensions * _FLOAT.itemsize

    def key(self, item_key: bytes) -> bytes:
        """Return the store's key (32 bytes) for an item's cache key."""
        key = self._salt.copy()
        key.update(item_key)
        return key.digest()

    def _digest(self, key: bytes, content: bytes) -> bytes:
        return hashlib.blake2b(
            key + content, digest_size=_DIGEST_BYTES, key=self._secret, person=b"vector-cache"
        ).digest()

    def encode(self, key: bytes, result: EmbeddingResult) -> bytes:
        """Encode a result.

        Raises:
            ValueError: the vector does not have the model's dimensions.
        """
        vector = result.vector
        if vector.shape != (self.dimensions,) or vector.dtype != np.float32:
            raise ValueError(f"expected {self.dimensions} float32, and not {vector.shape}")
        head = _HEAD.pack(result.tokens, self.dimensions, result.truncated)
        content = head + vector.astype(_FLOAT).tobytes()
        return self._digest(key, content) + content

    def decode(self, key: bytes, value: bytes) -> EmbeddingResult | None:
        """Return the result in a value; None if the value is not valid for this key."""
        if len(value) != self._nbytes:
            return None
        if not hmac.compare_digest(value[:_DIGEST_BYTES], self._digest(key, value[_DIGEST_BYTES:])):
            return None
        tokens, dimensions, truncated = _HEAD.unpack_from(value, _DIGEST_BYTES)
        if dimensions != self.dimensions:
            return None
        vector = np.frombuffer(value, _FLOAT, offset=_VECTOR_AT).astype(np.float32)
        return (
            EmbeddingResult(vector, tokens, bool(truncated)) if np.isfinite(vector).all() else None
        )
