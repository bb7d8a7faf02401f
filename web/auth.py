"""Who may ask: bearer tokens, as Weaviate's other inference containers take them.

Source of the variable and of its form: `AUTHENTICATION_ALLOWED_TOKENS` of Weaviate's
`text2vec-transformers` container.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import Scope

from errors import UnauthorizedError

_PROBES = {"/.well-known/live", "/.well-known/ready"}  # Kubernetes and Weaviate send no token


class Access:
    """Checks tokens; without any, everybody may ask."""

    def __init__(self, tokens: Sequence[SecretStr] = ()) -> None:
        self._tokens = [token.get_secret_value().encode() for token in tokens]

    def check(self, scope: Scope) -> None:
        """Let a request pass.

        Raises:
            UnauthorizedError: it must bring a token, and brings none that is allowed.
        """
        if not self._tokens or scope["path"] in _PROBES:
            return
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # All are compared, each in constant time: how long it takes tells nothing of them.
        matches = [hmac.compare_digest(given.strip().encode(), token) for token in self._tokens]
        if kind.lower() != "bearer" or not any(matches):
            raise UnauthorizedError("send a token that is allowed: Authorization: Bearer <token>")
