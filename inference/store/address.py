"""Parses VECTOR_CACHE_URL, and hides its secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from errors import ConfigurationError

_EXPECTED = "expected file:///a/folder, redis://host:port/db or rediss://host:port/db"
_SECRET = {"username", "password", "ssl_password"}  # secret parameters in a URL's query
_PORT, _DATABASE = 6379, "/0"  # defaults of a Redis URL


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a store.

    Attributes:
        shown: the URL for log, `/meta` and errors: with `***` for user and password, and without
            its query.
        folder: folder of the embedded store; None for Redis or Valkey.
        url: the URL with its secrets.
        secrets: parts of the URL that no message may hold.
    """

    shown: str
    folder: Path | None = None
    url: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of_url(cls, url: str) -> Address:
        """Parse a URL.

        Raises:
            ConfigurationError: the URL names no store; the message does not hold the URL.
        """
        parts = _split(url)
        if parts.scheme == "file":
            if parts.netloc not in {"", "localhost"} or parts.path in {"", "/"}:
                raise _refused(f"{_EXPECTED}; a file's URL has three slashes and a folder")
            if parts.query or parts.fragment:
                raise _refused("a ? or # in a folder's name is written %3F or %23")
            return cls(f"file://{parts.path}", Path(unquote(parts.path)))
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
            raise _refused(_EXPECTED)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        user = "***@" if "@" in parts.netloc else ""
        database = parts.path if parts.path.strip("/") else _DATABASE
        shown = f"{parts.scheme}://{user}{host}:{parts.port or _PORT}{database}"
        values = [value for name, value in parse_qsl(parts.query) if name in _SECRET]
        written = [one for one in (parts.username, parts.password, *values) if one]
        secrets = {secret for one in written for secret in (one, unquote(one))}
        return cls(shown, None, url, tuple(sorted(secrets, key=len, reverse=True)))

    def without_secrets(self, message: str) -> str:
        """Return a library's message with `***` in place of secrets."""
        for secret in self.secrets:
            message = message.replace(secret, "***")
        return message


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:  # its message holds parts of the URL
        raise _refused(
            f"{_EXPECTED}; in a password @, / and : are written %40, %2F and %3A"
        ) from None
    return parts


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError(f"VECTOR_CACHE_URL: {why}")
