"""A name server of one name: the replicas' addresses, as Docker and Kubernetes answer them."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable
from types import TracebackType

_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583  # authoritative; the second with NXDOMAIN
_HEAD = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHHIH4s")  # a pointer to the question's name, A, IN, TTL, length, address


class NameServer:
    """Answers every question with `addresses`, which may change while it runs."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self.addresses = set(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        number, *_ = _HEAD.unpack_from(question)
        name_ends = question.index(0, _HEAD.size) + 1
        asked = question[_HEAD.size : name_ends + 4]  # with its type and class
        addresses = sorted(self.addresses)
        head = _HEAD.pack(number, _ANSWER if addresses else _NO_SUCH_NAME, 1, len(addresses), 0, 0)
        records = (
            _RECORD.pack(0xC000 | _HEAD.size, 1, 1, 0, 4, socket.inet_aton(address))
            for address in addresses
        )
        return head + asked + b"".join(records)
