"""The container's health check: asks the service in it whether it is ready, and ends with 0 or 1.

It reads the variables by itself, as importing the settings would take longer than asking.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys


def is_ready() -> bool:
    """Ask, over TLS where the service has a certificate, which names another machine than this."""
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
