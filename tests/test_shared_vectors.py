"""Vectors that outlive a service and are shared by several, asked over HTTP."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import inputs
from config import Settings
from errors import ConfigurationError
from tests.golden_texts import GOLDEN_TEXTS
from tests.redis_server import RedisServer, needs_redis, redis_server
from tests.service import LAUNCHER, ROOT, Service, ask, run_to_end, running
from vectorizer import check_shared_cache

PATIENT: Mapping[str, Any] = {"VECTOR_CACHE_TIMEOUT_MS": 5_000}  # tests share their cores
DEMO: Mapping[str, Any] = {"MODELS_DIR": ROOT / "demo/models"}
TEXTS = [f"a red circle and {count} blue squares" for count in range(20)]
IMAGES = [inputs.image_b64((64, 48), number).decode() for number in range(5)]


def value(service: Service, name: str) -> float:
    """A metric's value, with its labels in the name."""
    for line in service.metrics().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


def stored_hits(service: Service) -> float:
    return value(service, 'inference_vector_store_lookups_total{result="hit"}')


def wait_until_written(service: Service, count: int) -> None:
    _wait_for(service, "inference_vector_store_written_total", count)


def _wait_for(service: Service, name: str, least: float) -> None:
    ends_s = time.monotonic() + 60
    while value(service, name) < least:
        assert time.monotonic() < ends_s
        time.sleep(0.05)


@contextmanager
def sharing(log: Path, run: Sequence[str] = LAUNCHER, **settings: Any) -> Iterator[Service]:
    """A service that has found its store; on a busy machine a start does not wait for that."""
    with running(log, run, **PATIENT, **settings) as service:
        _wait_for(service, "inference_vector_store_connected", 1)
        yield service


def cache_of(service: Service) -> dict[str, Any]:
    cache: dict[str, Any] = service.request("GET", "/meta")[1]["service"]["cache"]
    return cache


def test_a_restart_answers_from_the_folder_what_it_had_computed(tmp_path: Path) -> None:
    settings = {**DEMO, "VECTOR_CACHE_URL": f"file://{tmp_path}/kept"}
    asked: dict[str, Any] = {"texts": TEXTS, "images": IMAGES}
    with sharing(tmp_path / "first", **settings) as service:
        computed = service.vectorize(**asked)
        assert stored_hits(service) == 0
    with sharing(tmp_path / "second", **settings) as service:
        kept = service.vectorize(**asked)
        again = service.vectorize(**asked)
        assert stored_hits(service) == 25
        assert value(service, 'inference_cache_lookups_total{result="hit"}') == 25
        assert value(service, 'inference_cache_lookups_total{result="miss"}') == 0
        assert value(service, "inference_vector_store_read_duration_seconds_count") == 1
        assert value(service, "inference_vector_store_bytes") > 25_000
        told = cache_of(service)
    with sharing(tmp_path / "other", **{**settings, "VECTOR_CACHE_SECRET": "x"}) as service:
        service.vectorize(**asked)  # another secret made those
        assert stored_hits(service) == 0

    assert computed[0] == 200
    assert kept == again == computed
    assert told["store"] == f"file://{tmp_path}/kept"
    assert told["store_connected"] is True
    assert told["store_hits"] == 25


def test_scores_of_a_reranker_are_kept(tmp_path: Path) -> None:
    body = {"query": "Who?", "documents": [f"document {number}" for number in range(9)]}
    settings = {"VECTOR_CACHE_URL": f"file://{tmp_path}/kept"}
    answers, hits = [], 0.0
    for name in ("first", "second"):
        with sharing(
            tmp_path / name, MODELS_DIR=ROOT / "tests/golden_rerank/bert", **settings
        ) as service:
            answers.append(service.request("POST", "/rerank", body))
            hits = stored_hits(service)

    assert answers[0][0] == 200
    assert answers[0] == answers[1]
    assert hits == 9


def test_a_lookup_model_goes_by_the_store(tmp_path: Path) -> None:
    with running(
        tmp_path / "log",
        MODELS_DIR=GOLDEN_TEXTS / "model2vec",
        VECTOR_CACHE_URL=f"file://{tmp_path}/kept",
    ) as service:
        assert service.request("POST", "/vectors", {"text": "a"})[0] == 200
        assert "store" not in cache_of(service)
        assert "vector_store" not in service.metrics()

    assert "VECTOR_CACHE_URL is not used" in (tmp_path / "log").read_text()
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@needs_redis
def test_one_replica_answers_from_what_another_computed_and_nobody_shows_the_secret(
    tmp_path: Path, server: RedisServer
) -> None:
    settings = {**DEMO, "VECTOR_CACHE_URL": server.url, "LOG_LEVEL": "debug"}
    shown = f"redis://***@127.0.0.1:{server.port}/0"
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(sharing(tmp_path / name, **settings)) for name in ("1", "2")
        )
        computed = first.vectorize(texts=TEXTS, images=IMAGES)
        wait_until_written(first, 25)
        found = second.vectorize(texts=TEXTS, images=IMAGES)

        assert found == computed
        assert stored_hits(second) == 25
        said = json.dumps(first.request("GET", "/meta")[1]) + first.metrics()
        assert cache_of(first)["store"] == shown
    log = (tmp_path / "1").read_text()

    assert f"Vectors are kept in {shown}" in log
    for secret in ("ss/word", "ss%2Fword"):
        assert secret not in said + log


@needs_redis
def test_a_start_does_not_wait_for_a_redis_that_is_away_and_tells_no_secret(
    tmp_path: Path,
) -> None:
    with redis_server(tmp_path) as gone:
        url = gone.url
    with running(tmp_path / "log", VECTOR_CACHE_URL=url, **DEMO) as service:
        assert service.vectorize(texts=TEXTS)[0] == 200
        assert cache_of(service)["store_connected"] is False
        assert value(service, "inference_vector_store_connected") == 0
    log = (tmp_path / "log").read_text()

    assert log.count("WARNING") == 1
    assert "Connection refused" in log
    assert "word" not in log


def p99_ms(service: Service, texts: list[str]) -> float:
    """Ask for one text after the other, and return the 99th of 100 of the waits, in ms."""
    waits = []
    with service.connect() as connection:
        for number, text in enumerate(texts):
            began_s = time.perf_counter()
            status, _ = ask(connection, "POST", "/vectorize", {"texts": [text]}, {})
            assert status == 200
            if number >= 20:
                waits.append(1000 * (time.perf_counter() - began_s))
    return sorted(waits)[len(waits) * 99 // 100]


@needs_redis
@pytest.mark.parametrize("fault", ["frozen", "refused", "full"])
def test_a_redis_that_fails_is_in_nobodys_way(tmp_path: Path, fault: str) -> None:
    """Of five rounds side by side the best difference counts: other work takes the cores, too."""
    full = ("--maxmemory", "100kb", "--maxmemory-policy", "noeviction")
    texts = [f"text {number}" for number in range(1500)]
    model: Mapping[str, Any] = {"MODELS_DIR": GOLDEN_TEXTS / "bert"}
    with ExitStack() as stack:
        server = stack.enter_context(redis_server(tmp_path, *(full if fault == "full" else ())))
        without = stack.enter_context(running(tmp_path / "without", **model))
        service = stack.enter_context(
            running(tmp_path / "log", VECTOR_CACHE_URL=server.url, **model)
        )
        service.request("POST", "/vectors", {"text": "a"})
        if fault == "frozen":
            server.freeze()
        elif fault == "refused":
            server.process.kill()
        differences = []
        for start in range(0, 1500, 300):
            some = texts[start : start + 300]
            differences.append(p99_ms(service, some) - p99_ms(without, some))
            if min(differences) <= 2:
                break
        if fault == "full":  # a batch is written after the answers
            time.sleep(1)
        assert value(service, 'inference_vector_store_errors_total{reason="error"}') > 0
    log = (tmp_path / "log").read_text()

    assert min(differences) <= 2, differences
    assert log.count("WARNING") == 1, log
    assert "word" not in log


def command(*arguments: str, url: str | None) -> subprocess.CompletedProcess[str]:
    settings = {"VECTOR_CACHE_URL": url} if url else {}
    return run_to_end([*LAUNCHER, *arguments], **settings)


def test_the_command_shows_and_empties_a_folder(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/kept"
    with sharing(tmp_path / "log", **DEMO, VECTOR_CACHE_URL=url) as service:
        service.vectorize(texts=TEXTS)
        wait_until_written(service, 20)
        shown = command("--vector-cache", "show", url=url)
        emptied = command("--vector-cache", "empty", url=url)
        assert service.vectorize(texts=["another"])[0] == 200
        wait_until_written(service, 21)
        after = command("--vector-cache", "show", url=url)

    assert shown.stdout.startswith(f"{url}: 20 vectors, ")
    assert emptied.stdout.startswith(f"{url}: 20 vectors deleted\n{url}: 0 vectors, ")
    assert after.stdout.startswith(f"{url}: 1 vectors, ")
    assert (shown.returncode, emptied.returncode) == (0, 0)


@needs_redis
def test_the_command_leaves_what_is_not_ours_in_a_redis(server: RedisServer) -> None:
    import redis

    client = redis.Redis.from_url(server.url)
    client.set("another's", "x")
    emptied = command("--vector-cache", "empty", url=server.url)

    assert "vectors deleted" in emptied.stdout
    assert client.get("another's") == b"x"
    assert "word" not in emptied.stdout + emptied.stderr
    client.close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (None, "VECTOR_CACHE_URL: not set"),
        ("redis://:hidden@h:port", "VECTOR_CACHE_URL: expected file:///a/folder"),
        ("redis://:hidden@127.0.0.1:1/0", "redis://***@127.0.0.1:1/0: "),
    ],
)
def test_the_command_says_why_it_cannot(url: str | None, sentence: str) -> None:
    said = command("--vector-cache", "show", url=url)

    assert said.returncode == 1
    assert said.stderr.startswith(sentence)
    assert said.stderr.count("VECTOR_CACHE_URL:") == sentence.count("VECTOR_CACHE_URL:")
    assert "hidden" not in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("url", ["redis://:hidden@h:port/0", "ftp://u:hidden@h"])
def test_a_start_and_a_check_refuse_a_wrong_url_without_showing_it(url: str) -> None:
    for arguments in ((), ("--check",)):
        said = command(*arguments, url=url)

        assert said.returncode == 1
        assert "VECTOR_CACHE_URL: expected file:///a/folder" in said.stderr
        assert "hidden" not in said.stdout + said.stderr


def test_a_folder_that_cannot_be_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings.model_validate({"vector_cache_url": f"file://{tmp_path}/file"})
    with pytest.raises(ConfigurationError, match="VECTOR_CACHE_URL: "):
        check_shared_cache(settings)


def test_nothing_of_the_store_is_imported_where_it_is_not_set() -> None:
    program = "import app, cli, vectorizer, json, sys; print(json.dumps(list(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    loaded = json.loads(said.stdout)
    assert [name for name in loaded if name.startswith("inference.store")] == []
    assert [name for name in loaded if "redis" in name] == []


def test_two_services_that_are_each_process_1_share_a_folder(tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("making a PID namespace needs root and unshare")
    settings = {**DEMO, "VECTOR_CACHE_URL": f"file://{tmp_path}/kept"}
    contained = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, "app.py")
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(sharing(tmp_path / name, contained, **settings))
            for name in ("1", "2")
        )
        computed = first.vectorize(texts=TEXTS)
        wait_until_written(first, 20)

        assert second.vectorize(texts=TEXTS) == computed
        assert stored_hits(second) == 20
        for service in (first, second):
            service.process.kill()  # `unshare` passes no other signal on
