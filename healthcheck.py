"""The container's health check: polls the readiness probe, and exits with 0 or 1.

It reads the variables directly, as importing config.py would take longer than the request.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys


def is_ready() -> bool:
    """Return whether the service is ready; over TLS without checking its certificate."""
    host = os.environ.get("HOST") or ""  # noqa: TID251
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - all interfaces
        host = "127.0.0.1"
    port = int(os.environ.get("PORT") or 8080)  # noqa: TID251
    connection = http.client.HTTPConnection(host, port, timeout=2)
    if os.environ.get("SSL_CERTFILE"):  # noqa: TID251
        unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, context=unchecked, timeout=2)
    try:
        connection.request("GET", "/.well-known/ready")
        return connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(not is_ready())
