"""Certificates of their own authority, by openssl."""

import subprocess
from pathlib import Path


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def certificate_in(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of localhost and its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=clip"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate),
    )
    return certificate, key
