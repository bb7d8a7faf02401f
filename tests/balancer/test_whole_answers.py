"""What the balancer relies on: hardly a replica dies within an answer, as it is written at once."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.service import ROOT, running

ANSWERS = 300
REQUEST = b"POST /vectorize HTTP/1.1\r\nHost: replica\r\nContent-Length: %d\r\n\r\n%b" % (
    len(body := b'{"texts": ["a red circle"]}'),
    body,
)


def test_the_head_of_an_answer_never_comes_without_its_body(tmp_path: Path) -> None:
    with (
        running(tmp_path / "log", MODELS_DIR=ROOT / "demo/models") as service,
        socket.create_connection(("127.0.0.1", service.port)) as client,
    ):
        for _ in range(ANSWERS):
            client.sendall(REQUEST)
            first = client.recv(1 << 16)
            head, _, content = first.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"content-length: %d\r\n" % len(content) in head + b"\r\n"
