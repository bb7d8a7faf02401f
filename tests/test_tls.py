"""TLS by SSL_CERTFILE, and those who ask a service that speaks it."""

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from errors import ConfigurationError
from tests.certificates import certificate_in, openssl
from tests.service import LAUNCHER, ROOT, Service, environment, run_to_end, starting
from web.server import check_certificate

MODEL = ROOT / "tests/golden_text/model2vec"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def service(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    certificate, key = pair
    files = {"SSL_CERTFILE": certificate, "SSL_KEYFILE": key}
    log = tmp_path_factory.mktemp("log") / "log"
    with starting(log, LAUNCHER, MODELS_DIR=MODEL, **files) as service:
        assert run(service, "smoke_test.py", f"https://localhost:{service.port}", "--insecure") == 0
        yield service


def run(service: Service, *command: str, **settings: object) -> int:
    return subprocess.run(
        [sys.executable, "-I", *command],
        cwd=ROOT,
        env=environment(**{"PORT": service.port, **settings}),
        check=False,
        capture_output=True,
    ).returncode


def test_it_is_spoken_and_nothing_else(service: Service, pair: tuple[Path, Path]) -> None:
    trusting = ssl.create_default_context(cafile=pair[0])
    answer = httpx.get(f"https://localhost:{service.port}/meta", verify=trusting)

    assert answer.status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{service.port}/meta")


def test_the_smoke_test_checks_the_certificate(service: Service, pair: tuple[Path, Path]) -> None:
    url = f"https://localhost:{service.port}"

    assert run(service, "smoke_test.py", url, "--cacert", str(pair[0])) == 0
    assert run(service, "smoke_test.py", url, "--wait", "0.5") == 1


def test_the_health_check_follows(service: Service, pair: tuple[Path, Path]) -> None:
    assert run(service, "healthcheck.py", SSL_CERTFILE=pair[0]) == 0
    assert run(service, "healthcheck.py", SSL_CERTFILE=pair[0], HOST="0.0.0.0") == 0
    assert run(service, "healthcheck.py", SSL_CERTFILE=pair[0], HOST="::1") == 1  # asked there
    assert run(service, "healthcheck.py") == 1
    assert run(service, "healthcheck.py", SSL_CERTFILE=pair[0], PORT=9) == 1


def test_a_start_looks_at_the_files_before_it_loads_a_model(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = pair
    encrypted = tmp_path / "encrypted.key"
    openssl("rsa", "-aes256", "-passout", "pass:secret", "-in", key, "-out", encrypted)
    _, of_another = certificate_in(tmp_path)
    text = tmp_path / "text"
    text.write_text("no certificate")

    check_certificate(None, None)
    check_certificate(certificate, key)
    both = tmp_path / "both"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    check_certificate(both, None)
    for files, told in (
        ((None, key), "SSL_KEYFILE=.* counts with SSL_CERTFILE"),
        ((tmp_path / "none", key), "SSL_CERTFILE=.*none cannot be read: No such file"),
        ((certificate, tmp_path / "none"), "SSL_KEYFILE=.*none cannot be read"),
        ((certificate, encrypted), "unencrypted key"),
        ((certificate, of_another), "its own unencrypted key"),
        ((certificate, None), "its own unencrypted key"),
        ((text, key), "no certificate"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            check_certificate(*files)


def test_a_start_with_a_wrong_certificate_ends_with_a_sentence(tmp_path: Path) -> None:
    answer = run_to_end(LAUNCHER, MODELS_DIR="nowhere", SSL_CERTFILE=tmp_path, PORT=0)

    assert answer.returncode == 1
    assert "Cannot start: SSL_CERTFILE=" in answer.stderr
    assert "Traceback" not in answer.stderr
