"""The benchmark through Weaviate, against a stand-in that answers as Weaviate does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bench.weaviate import Import, faults, main, table


class StandIn(ThreadingHTTPServer):
    """Stores what it is sent; objects whose text has the word fail."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.bad_word = "no such word"
        self.collections: list[dict[str, Any]] = []
        self.batches: list[list[str]] = []
        self.headers: list[str | None] = []
        self.searches = 0


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_DELETE(self) -> None:
        self._send(None)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/schema":
            self.server.collections.append(asked)
            self._send(asked)
        elif self.path == "/v1/graphql":
            self.server.searches += 1
            self._send({"data": {}})
        else:
            self._store([one["properties"]["text"] for one in asked["objects"]])

    def _store(self, texts: list[str]) -> None:
        self.server.batches.append(texts)
        self.server.headers.append(self.headers["X-Cohere-Ratelimit-RequestPM-Embedding"])
        fault = {"errors": {"error": [{"message": "no"}]}}
        self._send([{"result": fault if self.server.bad_word in text else {}} for text in texts])

    def _send(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def measure(stand_in: StandIn, *modules: str) -> int:
    address = f"http://127.0.0.1:{stand_in.server_port}"
    options = ["--weaviate", address, "--service", "http://service:9090", "--minutes", "0.003"]
    return main([*options, "--modules", *modules])


def test_each_module_imports_by_the_service_in_both_kinds_of_batches(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = ["text2vec-transformers", "text2vec-ollama", "text2vec-huggingface"]
    measure(stand_in, *modules)

    made = [one["vectorizer"] for one in stand_in.collections]
    assert made == [module for module in modules for _ in range(2)]
    for collection in stand_in.collections:
        (settings,) = collection["moduleConfig"].values()
        assert "http://service:9090" in settings.values()
    sizes = {len(batch) for batch in stand_in.batches}
    assert {100} < sizes <= set(range(10, 101))
    texts = [text for batch in stand_in.batches for text in batch]
    assert len(set(texts)) == len(texts)
    assert {*stand_in.headers} == {"1000000"}
    assert stand_in.searches
    assert capsys.readouterr().out.count("`text2vec-") == 6


def test_an_import_with_failures_has_no_rate(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.bad_word = " "
    code = measure(stand_in, "text2vec-ollama")
    reported = capsys.readouterr()

    assert code == 1
    assert reported.out.count("none, as objects failed") == 2
    assert "objects failed" in reported.err


@pytest.mark.parametrize(("quick", "is_fault"), [(221, False), (219, True)])
def test_ollamas_module_must_be_quick_enough(quick: int, is_fault: bool) -> None:
    imports = [
        Import("text2vec-transformers", "100", objects=100, seconds=1, searches_s=[0.01]),
        Import("text2vec-ollama", "100", objects=quick, seconds=1),
    ]

    assert bool(faults(imports)) is is_fault
    assert f"| `text2vec-ollama` | 100 | {quick} |" in table(imports)


def test_a_weaviate_that_is_not_there_is_no_rate() -> None:
    with pytest.raises(OSError, match="refused"):
        main(["--weaviate", "http://127.0.0.1:1", "--minutes", "0"])
