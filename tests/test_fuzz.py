"""Heads of requests that nobody sends on purpose: each is answered, and none is a bug."""

import re
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.service import Service, running

METHODS = [b"GET", b"POST", b"OPTIONS", b"HEAD", b"CONNECT", b"PROPFIND", b"PRI", b"get", b"A", b""]
TARGETS = [
    *(
        b"*",
        b"/",
        b"//",
        b"/..",
        b"/.",
        b"",
        b"?",
        b"#",
        b"/?",
        b"/%",
        b"/%00",
        b"/%0a%0d",
        b"/%zz",
    ),
    *(b"/vectorize", b"//vectorize/", b"/v1/embeddings", b"/v1/", b"/v1", b"/v1/models/%2f*"),
    *(b"/health/", b"/meta?a=%ff&b", b"/docs#a", b"/metrics;a", b"/openapi.json", b"/vectors/%2e"),
    *(b"http://a", b"http://a/meta", b"http:///meta", b"https://[::1", b"//a:b@c/meta", b"a:1"),
    *(b"/" + bytes([byte]) for byte in (0, 9, 11, 32, 34, 60, 92, 127, 128, 233, 255)),
    *(b"/%c3%28", b"/%ed%a0%80", b"/" + "é".encode(), b"/" + b"a" * 70_000),
]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/9.9", b"http/1.1", b"X", b""]
HEADERS = [
    *(b"Host: [", b"Host: a/b?c#d", b"Host:", b"Host: \xff", b"Host: a\x00b", b"Host: a b"),
    *(b"Authorization: Basic !", b"Authorization: Bearer \xff", b"Authorization: basic YTpi"),
    *(b"Authorization: Bearer a", b"Authorization:", b"X-Request-ID: a b", b"X-Request-ID: \xe9"),
    *(b"Accept: text/html", b"Accept: \xff", b"Accept: ;q=x", b"Content-Encoding: gzip"),
    *(b"Content-Length: 0", b"Content-Length: x", b"Content-Length: -1", b"Content-Length: \xb2"),
    *(b"Content-Length: 0\r\nContent-Length: 0", b"Transfer-Encoding: x", b"Expect: 100-continue"),
    *(b"Transfer-Encoding: chunked\r\nContent-Length: 0", b"Expect: x", b"Range: bytes=0-1"),
    *(b"Connection: Upgrade\r\nUpgrade: h2c", b"Connection: Upgrade\r\nUpgrade: websocket"),
    *(b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0", b"Content-Type: \xff/\x01"),
    *(b"Accept-Encoding: gzip;q=x", b"Cookie: \xff=\xff", b"Forwarded: a", b"X-Forwarded-For: x"),
    *(b"Origin: \xff", b" folded", b"no colon", b": no name", b"A\x00: b", b"a: " + b"b" * 66_000),
]
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
FINE = {200, 204, 400, 401, 404, 405, 408, 413, 415, 422, 431}


@pytest.fixture(scope="module", params=["", "a"], ids=["open", "tokens"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    command = (sys.executable, "-m", "tests.slow_service")
    log = tmp_path_factory.mktemp("fuzz") / "log"
    with running(
        log, command, AUTHENTICATION_ALLOWED_TOKENS=request.param, LOG_LEVEL="debug"
    ) as service:
        yield service


def answer_to(service: Service, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        try:
            while part := connection.recv(65_536):
                answer += part
        except ConnectionResetError:  # it was refused before all of it had been sent
            pass
    return answer


def head_of(method: bytes, target: bytes, version: bytes, headers: list[bytes]) -> bytes:
    lines = [b" ".join([method, target, version]), *headers, b"Connection: close", b"", b""]
    return b"\r\n".join(lines)


def test_no_head_ends_in_a_traceback(service: Service) -> None:
    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(
        method=st.sampled_from(METHODS),
        target=st.sampled_from(TARGETS) | st.binary(max_size=20),
        version=st.sampled_from([b"HTTP/1.1"] * 3 + VERSIONS),
        headers=st.lists(st.sampled_from(HEADERS) | st.binary(max_size=30), max_size=3),
    )
    @example(method=b"OPTIONS", target=b"*", version=b"HTTP/1.1", headers=[])
    @example(method=b"GET", target=b"*", version=b"HTTP/1.1", headers=[b"Authorization: Bearer a"])
    def ask(method: bytes, target: bytes, version: bytes, headers: list[bytes]) -> None:
        answer = answer_to(service, head_of(method, target, version, headers))
        statuses = {int(status) for status in STATUS.findall(answer)} - {100}
        assert statuses <= FINE, answer[:300]

    ask()
    for target in TARGETS:
        ask_plainly = head_of(b"GET", target, b"HTTP/1.1", [b"Host: x"])
        assert {int(status) for status in STATUS.findall(answer_to(service, ask_plainly))} <= FINE
    assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize("method", [b"OPTIONS", b"GET"])
def test_a_star_is_no_route(service: Service, method: bytes) -> None:
    asked = head_of(method, b"*", b"HTTP/1.1", [b"Host: x", b"Authorization: Bearer a"])
    answer = answer_to(service, asked)

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b'{"error":"%s /*: Not Found"}' % method)
