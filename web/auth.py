"""Authentication by tokens, as in Weaviate's other inference containers.

Source of the variable and of its form: `AUTHENTICATION_ALLOWED_TOKENS` of Weaviate's
`text2vec-transformers` container. A request sends its token as `Bearer`, or as the password of
HTTP Basic with any user name. Weaviate's `multi2vec-clip` module sends no token of its own, but
Go's HTTP client sends the credentials in a URL as HTTP Basic, and so does a browser.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from contextlib import suppress

from starlette.types import Scope

from config import Settings, allowed_tokens
from errors import ConfigurationError, UnauthorizedError
from web.logs import on_one_line
from web.scope import read_header

logger = logging.getLogger(__name__)

# The challenges of a 401, each in a header of its own: browsers ask for a password only if Basic is
# a header of its own.
CHALLENGES = ("Bearer", 'Basic realm="the password is a token", charset="UTF-8"')

_PROBES = {"/.well-known/live", "/.well-known/ready", "/health"}  # Kubernetes sends no token
_METRICS = "/metrics"


class TokenAuth:
    """Checks the tokens of requests; if no tokens are set, every request is allowed.

    Args:
        settings: the settings, which name the tokens, and whether `/metrics` needs a token.

    Attributes:
        open_paths: paths that need no token.

    Raises:
        ConfigurationError: the file of tokens cannot be read, or holds no token.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens = allowed_tokens(settings)
        self.open_paths = _PROBES | ({_METRICS} if settings.metrics_without_token else set())
        self._failed_logins = FailedLogins()

    @property
    def requires_token(self) -> bool:
        """Whether requests need one of the allowed tokens."""
        return bool(self._tokens)

    def check(self, path: str, scope: Scope) -> None:
        """Check the `Authorization` header of a request, unless its path is open.

        Raises:
            UnauthorizedError: the request has no allowed token.
        """
        if not self._tokens or path in self.open_paths:
            return
        given = _read_token(read_header(scope, b"authorization"))
        # All tokens are compared, each in constant time, so that the time reveals nothing.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        if not any(matches):
            self._failed_logins.add(path, scope, had_token=bool(given))
            raise UnauthorizedError(
                "send a token that is allowed: Authorization: Bearer <token>, or as the password "
                "of HTTP Basic"
            )

    async def follow_file(self, every_s: float = 10) -> None:
        """Read the file of tokens every `every_s` seconds, so that tokens can be replaced."""
        reported = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                tokens = allowed_tokens(self._settings)
            except ConfigurationError as error:
                if str(error) != reported:
                    reported = str(error)
                    logger.warning("%s; the tokens that it held before are still allowed", reported)
                continue
            reported = ""
            if tokens != self._tokens:
                self._tokens = tokens
                logger.info("The tokens were replaced: %d are allowed now", len(tokens))


class FailedLogins:
    """Logs requests without an allowed token: the first at once, later ones once a minute.

    Args:
        pause_s: seconds between two warnings.
    """

    def __init__(self, pause_s: float = 60) -> None:
        self._pause_s = pause_s
        self._count = 0
        self._last = ""
        self._next: asyncio.TimerHandle | None = None

    def add(self, path: str, scope: Scope, had_token: bool) -> None:
        """Count a failed login; log a warning if the last warning is over `pause_s` seconds old."""
        host, _ = scope.get("client") or ("an unknown address", 0)  # uvicorn knows trusted proxies
        brought = "a token that is not allowed" if had_token else "no token"
        self._count += 1
        self._last = f"from {on_one_line(host)}, with {brought}, for {on_one_line(path)}"
        if self._next is None:
            self._warn()

    def _warn(self) -> None:
        self._next = None
        if self._count:
            logger.warning(
                "Failed logins: %d since the last such line, the latest %s",
                self._count,
                self._last,
            )
            self._count = 0
            self._next = asyncio.get_running_loop().call_later(self._pause_s, self._warn)


def _read_token(authorization: str) -> bytes:
    """Return the token in an `Authorization` header; empty if it has none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip().encode("latin-1")  # as ASGI servers decode headers
    if scheme.lower() == "basic":
        with suppress(ValueError):
            _, _, password = base64.b64decode(credentials.strip(), validate=True).partition(b":")
            return password
    return b""
