"""Who may ask: tokens, as Weaviate's other inference containers take them.

Source of the variable and of its form: `AUTHENTICATION_ALLOWED_TOKENS` of Weaviate's
`text2vec-transformers` container. A token comes as `Bearer`, or as the password of HTTP Basic, the
user's name being any: Weaviate's `multi2vec-clip` module sends no token of its own, but Go's client
makes Basic of the credentials in a URL, and so does a browser.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.types import Scope

from errors import UnauthorizedError
from web.scope import header_of

# How a token may be brought, each in a line of its own of the answer 401: browsers ask for a user
# and a password where Basic stands alone.
CHALLENGES = ("Bearer", 'Basic realm="the password is a token", charset="UTF-8"')

_PROBES = {"/.well-known/live", "/.well-known/ready", "/health"}  # Kubernetes sends no token


class TokenAuth:
    """Checks tokens; without any, everybody may ask."""

    def __init__(self, tokens: Sequence[SecretStr] = ()) -> None:
        self._tokens = [token.get_secret_value().encode() for token in tokens]

    def check(self, path: str, scope: Scope) -> None:
        """Let a request pass, by its path below the prefix and its header `Authorization`.

        Raises:
            UnauthorizedError: it must bring a token, and brings none that is allowed.
        """
        if not self._tokens or path in _PROBES:
            return
        given = _token_of(header_of(scope, b"authorization"))
        # All are compared, each in constant time: how long it takes tells nothing of them.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        if not any(matches):
            raise UnauthorizedError(
                "send a token that is allowed: Authorization: Bearer <token>, or as the password "
                "of HTTP Basic"
            )


def _token_of(authorization: str) -> bytes:
    """Return what is to be compared, which is nothing where no token was brought."""
    scheme, _, credentials = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip().encode()
        case "basic":
            return _password_of(credentials.strip())
    return b""


def _password_of(credentials: str) -> bytes:
    try:
        _, _, password = base64.b64decode(credentials, validate=True).partition(b":")
    except ValueError:
        return b""
    return password
