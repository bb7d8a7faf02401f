"""Tokens: of the file that is read again, what opens to Prometheus, and what the log says."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from config import Settings, allowed_tokens
from errors import ConfigurationError, UnauthorizedError
from tests.asgi import serving
from tests.fakes import FakeModel
from tests.service import running
from web.auth import FailedLogins, TokenAuth

pytestmark = pytest.mark.anyio

MODEL = Path(__file__).parent / "golden_text" / "model2vec"


def is_allowed(access: TokenAuth, token: str) -> bool:
    scope = {"headers": [(b"authorization", f"Bearer {token}".encode())]}
    try:
        access.check("/vectorize", scope)
    except UnauthorizedError:
        return False
    return True


class Secret:
    """A file as Kubernetes mounts it: a link to a folder that is replaced as a whole."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "tokens"
        self._folder, self._versions = folder, 0
        self.replace(text)
        self.path.symlink_to(Path("..data", "tokens"))

    def replace(self, text: str | None) -> None:
        self._versions += 1
        version = self._folder / f"..{self._versions}"
        version.mkdir()
        if text is not None:
            (version / "tokens").write_text(text)
        (self._folder / "..new").symlink_to(version.name)
        (self._folder / "..new").rename(self._folder / "..data")


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path, "first\n second ,third\r\n")


def access_by(path: Path, tokens: str = "") -> TokenAuth:
    return TokenAuth(
        Settings(authentication_allowed_tokens_file=path, authentication_allowed_tokens=tokens)  # type: ignore[arg-type]
    )


@contextmanager
def following(access: TokenAuth) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(access.follow_file(every_s=0))
    try:
        yield task
    finally:
        task.cancel()


async def passes(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_file_holds_tokens_beside_those_of_the_variable(secret: Secret) -> None:
    access = access_by(secret.path, "of-variable")

    for token in ("first", "second", "third", "of-variable"):
        assert is_allowed(access, token)
    for token in ("", "firs", "first,second", "fourth"):
        assert not is_allowed(access, token)


async def test_a_secret_that_is_replaced_is_read_through_its_link(
    secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    access = access_by(secret.path)
    with following(access):
        secret.replace("fourth")
        await passes()

    assert is_allowed(access, "fourth")
    assert not is_allowed(access, "first")
    assert caplog.messages[0] == "The tokens were replaced: 1 are allowed now"


@pytest.mark.parametrize("text", [None, "", " \n,"])
async def test_a_file_that_holds_none_leaves_the_tokens_and_warns_once(
    text: str | None, secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    access = access_by(secret.path)
    with following(access):
        secret.replace(text)
        await passes()
        assert is_allowed(access, "first")
        secret.replace("fourth")
        await passes()

    assert is_allowed(access, "fourth")
    (warning,) = [one for one in caplog.records if one.name == "web.auth" and "before" in one.msg]
    assert warning.levelname == "WARNING"
    assert str(secret.path) in warning.getMessage()
    assert "first" not in warning.getMessage()


async def test_a_byte_order_mark_is_no_part_of_a_token(tmp_path: Path) -> None:
    access = access_by(Secret(tmp_path, "\ufefffirst\nzw\u00f6lf").path)

    assert is_allowed(access, "first")
    assert is_allowed(access, "zw\u00f6lf")  # as bytes of UTF-8, which ASGI decodes as Latin-1


@pytest.mark.parametrize(
    ("text", "reported"),
    [(None, "No such file"), (",\n", "holds no token"), ("\ufeff", "holds no token")],
)
def test_a_start_without_the_tokens_that_were_asked_for_ends(
    text: str | None, reported: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ConfigurationError, match=f"TOKENS_FILE=.*{reported}"):
        allowed_tokens(Settings(authentication_allowed_tokens_file=path))


async def test_the_application_follows_the_file(
    secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    following_file = TokenAuth.follow_file
    monkeypatch.setattr(TokenAuth, "follow_file", lambda access: following_file(access, 0))
    async with serving(FakeModel(), authentication_allowed_tokens_file=secret.path) as client:
        statuses = [(await client.get("/meta", auth=("any", "first"))).status_code]
        secret.replace("fourth")
        await passes()
        statuses += [
            (await client.get("/meta", auth=("any", token))).status_code
            for token in ("first", "fourth")
        ]

    assert statuses == [200, 401, 200]


@pytest.mark.parametrize(("is_open", "status"), [(False, 401), (True, 200)])
async def test_metrics_alone_can_be_open(is_open: bool, status: int) -> None:
    async with serving(
        FakeModel(), authentication_allowed_tokens="a", metrics_without_token=is_open
    ) as client:
        assert (await client.get("/metrics")).status_code == status
        assert (await client.get("http://test//metrics/")).status_code == status
        assert (await client.get("/metrics", auth=("prometheus", "a"))).status_code == 200
        for path in ("/", "/meta", "/docs", "/openapi.json", "/v1/models", "/metrics/x"):
            assert (await client.get(path)).status_code == 401


def note(logins: FailedLogins, address: str, had_token: bool = False) -> None:
    logins.add("/meta\x1b[31m\u2028\u202e", {"client": (address, 1)}, had_token)


async def test_failed_logins_are_reported_once_a_minute_with_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logins = FailedLogins(pause_s=0.05)
    for number in range(9):
        note(logins, f"10.0.0.{number}", had_token=number == 8)
    assert len(caplog.messages) == 1
    async with asyncio.timeout(10):
        while len(caplog.messages) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)

    first, rest = caplog.messages
    assert first == (
        "Failed logins: 1 since the last such line, the latest from 10.0.0.0, with no token, "
        r"for /meta\x1b[31m\u2028\u202e"
    )
    assert "8 since" in rest
    assert "10.0.0.8, with a token that is not allowed" in rest


@pytest.mark.parametrize(
    ("trusted", "address"), [("10.0.0.0/8", "127.0.0.1"), ("127.0.0.0/8,::1", "192.0.2.7")]
)
def test_only_a_trusted_proxy_says_whose_login_failed(
    trusted: str, address: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    tokens = {"AUTHENTICATION_ALLOWED_TOKENS": "secret", "FORWARDED_ALLOW_IPS": trusted}
    with running(log, MODELS_DIR=MODEL, **tokens) as service:
        headers = {"X-Forwarded-For": "203.0.113.9, 192.0.2.7", "Authorization": "Bearer wrong"}
        url = f"http://127.0.0.1:{service.port}/meta"
        answers = [httpx.get(url, headers=headers).status_code for _ in range(20)]

    assert answers == [401] * 20
    (line,) = [one for one in log.read_text().splitlines() if "Failed logins" in one]
    assert f"from {address}, with a token that is not allowed, for /meta" in line
    assert "wrong" not in line
