"""The container's health check: polls the readiness probe, and exits with 0 or 1.

It reads the variables directly, as importing config.py would take longer than the request.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys


def is_ready() -> bool:
    """Return whether the service is ready; over TLS without checking the host name."""
    port = int(os.environ.get("PORT") or 8080)  # noqa: TID251
    connection = http.client.HTTPConnection("127.0.0.1", port)
    if os.environ.get("SSL_CERTFILE"):  # noqa: TID251
        unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=unchecked)
    try:
        connection.request("GET", "/.well-known/ready")
        return connection.getresponse().status < 300
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(not is_ready())
