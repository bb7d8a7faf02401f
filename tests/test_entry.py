"""What a store keeps: nothing that was changed, moved or made by another is ever a vector."""

import hashlib
import struct

import numpy as np
import pytest

from backends.model import EmbeddingResult
from inference.store.entry import EntryFormat, library_versions

KEY, OTHER = hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()
RESULT = EmbeddingResult(np.array([1.5, -2, 0.25], np.float32), tokens=70_000, truncated=True)
ENTRIES = EntryFormat(3, {"numpy": "2"}, "a secret")
VALUE = ENTRIES.encode(KEY, RESULT)


def resigned(vector: bytes, dimensions: int = 3) -> bytes:
    """A value of whatever content under the right digest, as a bug of ours would write it."""
    content = struct.pack("<IIB3x", 1, dimensions, 0) + vector
    return ENTRIES._digest(KEY, content) + content


def test_a_result_comes_back_as_it_was() -> None:
    found = ENTRIES.decode(KEY, VALUE)

    assert found is not None
    assert found.vector.dtype == np.float32
    np.testing.assert_array_equal(found.vector, RESULT.vector)
    assert found[1:] == (70_000, True)
    assert found.vector.flags.writeable
    assert VALUE.endswith(struct.pack("<IIB3x3f", 70_000, 3, 1, 1.5, -2, 0.25))


@pytest.mark.parametrize("place", range(len(VALUE)))
def test_no_changed_byte_goes_unnoticed(place: int) -> None:
    changed = bytearray(VALUE)
    changed[place] ^= 1

    assert ENTRIES.decode(KEY, bytes(changed)) is None


@pytest.mark.parametrize(
    "value",
    [
        *(b"", VALUE[:-1], VALUE[:16], VALUE + b"\0", b"x" * len(VALUE)),
        resigned(struct.pack("<2f", 1, 2), 2),
        resigned(struct.pack("<3f", 1, 2, 3), 2),
        resigned(struct.pack("<3f", 1, float("nan"), 3)),
        resigned(struct.pack("<3f", 1, 2, float("-inf"))),
    ],
)
def test_what_is_no_vector_of_this_model_is_a_miss(value: bytes) -> None:
    assert ENTRIES.decode(KEY, value) is None


def test_a_value_is_bound_to_its_key_and_to_the_secret() -> None:
    assert ENTRIES.decode(OTHER, VALUE) is None
    for secret in ("", "another"):
        others = EntryFormat(3, {"numpy": "2"}, secret)
        assert others.decode(KEY, VALUE) is None
        assert ENTRIES.decode(KEY, others.encode(KEY, RESULT)) is None
    assert EntryFormat(3, {}, "a secret" * 99).decode(KEY, VALUE) is None  # longer than a key


def test_the_key_is_of_the_item_and_of_the_libraries() -> None:
    libraries = ({"numpy": "2"}, {"numpy": "3"}, {"numpy": "2", "pillow": "1"})
    keys = {EntryFormat(3, versions).key(item) for versions in libraries for item in (KEY, OTHER)}

    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}
    assert EntryFormat(3, {"b": "1", "a": "2"}).key(KEY) == EntryFormat(
        3, {"a": "2", "b": "1"}
    ).key(KEY)


@pytest.mark.parametrize("vector", [np.zeros(4, np.float32), np.zeros(3), np.zeros((1, 3), "f4")])
def test_what_is_no_vector_of_this_model_is_not_written(vector: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 3 float32"):
        ENTRIES.encode(KEY, EmbeddingResult(vector))


def test_the_libraries_of_each_runtime() -> None:
    served, torch = library_versions("openvino"), library_versions("torch")

    assert served["openvino"]
    assert torch["torch"]
    assert {"numpy", "pillow", "tokenizers"} <= served.keys() & torch.keys()
    assert "torch" not in served
