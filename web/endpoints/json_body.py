"""Decodes JSON bodies within bounds of memory."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeVar

import msgspec

from errors import InvalidInputError, RequestTooLargeError

T = TypeVar("T")

# A parameter such as a task. It may be written in front of a text, and errors repeat it, so its
# length is bounded, as the length of texts is.
Word = Annotated[str, msgspec.Meta(max_length=64)]

# Even a short string takes 50 bytes and more: a body of 100 MB would grow to 2 GB.
_MAX_QUOTES = 2_000_000
# Largest body that Python's own parser reads after msgspec failed: it builds all values, which
# takes 0.1 s at most.
_MAX_SECOND_READING_BYTES = 1_000_000
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")  # alone or half of a pair
_NO_UNICODE = "not valid Unicode (lone surrogate)"


def decode(decoder: msgspec.json.Decoder[T], body: bytes | bytearray) -> T:
    """Decode a body, independent of its content type.

    Unknown fields are skipped and not built: otherwise 15 MB of `[],[],...` in an unknown field
    would grow to 160 MB.

    Raises:
        InvalidInputError: the body is invalid; the message names the place.
        RequestTooLargeError: the body holds too many strings.
    """
    if len(body) > _MAX_QUOTES and body.count(b'"') > _MAX_QUOTES:
        raise RequestTooLargeError("the request body: it holds over a million strings", "body")
    try:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, msgspec.ValidationError) or len(body) > _MAX_SECOND_READING_BYTES:
                raise
            return _decode_as_python_does(decoder, body, error)
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at `$.")
        where = path.rstrip("`")
        if where:
            raise InvalidInputError(fault, "body").at(where) from error
        raise InvalidInputError(f"the request body: {fault}", "body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"the request body: invalid JSON: {error}", "body") from error


class FieldFinder:
    """Finds which of the named fields a body holds, without building their values.

    Args:
        names: names of the fields.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        fields = [(name, msgspec.Raw, msgspec.Raw()) for name in names]
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Fields", fields))

    def find(self, body: bytes | bytearray) -> set[str]:
        """Return the fields that are present and not null; empty if the body is invalid."""
        try:
            raw = msgspec.structs.asdict(self._decoder.decode(body))
            starts = {name: bytes(memoryview(value)[:5]) for name, value in raw.items()}
            return {name for name, start in starts.items() if start not in (b"", b"null")}
        except (msgspec.DecodeError, UnicodeDecodeError):
            given = _parse_as_python_does(body)
        return {name for name in self._names if given.get(name) is not None}


def _parse_as_python_does(body: bytes | bytearray) -> dict[str, Any]:
    """Return the fields of a body that msgspec does not read; none if it is invalid or large."""
    if len(body) > _MAX_SECOND_READING_BYTES:
        return {}
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class _WithModel(msgspec.Struct):
    model: str | None = None


_MODEL_DECODER = msgspec.json.Decoder(_WithModel)


def model_in(body: bytes | bytearray) -> str | None:
    """Return the `model` that a body names; None if it names none, or is invalid JSON.

    Raises:
        InvalidInputError: `model` is no string.
    """
    try:
        return _MODEL_DECODER.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        model = _parse_as_python_does(body).get("model")
        if model is None or isinstance(model, str):
            return model
        raise InvalidInputError("expected a string", "body").at("model") from error


class NaN:
    """`NaN` or `Infinity`, which is no JSON and which no field accepts."""


def _decode_as_python_does(
    decoder: msgspec.json.Decoder[T], body: bytes | bytearray, fault: Exception
) -> T:
    """Decode like Python's `json.loads`, which the references use and which accepts more than JSON.

    Raises:
        InvalidInputError: a known field holds a lone surrogate, which cannot be embedded.
        msgspec.ValidationError: a known field has an invalid value.
        Exception: `fault`, if Python cannot decode the body either.
    """
    try:
        content = json.loads(body, parse_constant=lambda _: NaN())
    except ValueError:
        raise fault from None
    try:
        decoded = msgspec.convert(content, decoder.type, strict=decoder.strict)
    except UnicodeEncodeError as error:  # in a field of another type than text
        raise InvalidInputError(f"the request body: {_NO_UNICODE}", "body") from error
    if _SURROGATE.search(body) and (where := _lone_surrogate(decoded)):
        raise InvalidInputError(_NO_UNICODE, "body").at(where)
    return decoded


def _lone_surrogate(value: Any, where: str = "") -> str:
    """Return the place of a lone surrogate; empty if there is none."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return where
        return ""
    if isinstance(value, msgspec.Struct):
        names = [f"{where}.{name}".lstrip(".") for name in value.__struct_encode_fields__]
        values = [getattr(value, name) for name in value.__struct_fields__]
    else:
        values = value if isinstance(value, list) else []
        names = [f"{where}[{i}]" for i in range(len(values))]
    found = map(_lone_surrogate, values, names)
    return next((place for place in found if place), "")
