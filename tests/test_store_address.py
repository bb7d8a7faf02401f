"""VECTOR_CACHE_URL is a secret: it is read, shown and refused without one."""

from pathlib import Path

import pytest

from errors import ConfigurationError
from inference.store.address import Address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://localhost/", "redis://localhost:6379/0"),
        ("redis://cache.example:7000/2", "redis://cache.example:7000/2"),
        ("redis://:secret@h/1", "redis://***@h:6379/1"),
        ("rediss://secret:secret@h:1/0", "rediss://***@h:1/0"),
        ("rediss://secret@h:1/0?ssl_cert_reqs=none&password=secret", "rediss://***@h:1/0"),
        ("redis://h:1/0?password=secret", "redis://h:1/0"),
        ("redis://:secret@[::1]:1/0", "redis://***@[::1]:1/0"),
        (" REDIS://:secret@h:1/0 ", "redis://***@h:1/0"),
        ("file:///var/cache/vectors", "file:///var/cache/vectors"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    address = Address.of_url(url)

    assert address.shown == shown
    assert "secret" not in repr(address)
    assert "secret" not in address.without_secrets(f"could not log in by {url}")


def test_a_password_is_hidden_as_it_is_written_and_as_it_is_meant() -> None:
    address = Address.of_url("redis://ali%40ce:p%40ss@h:1/0")

    assert address.without_secrets("ali@ce p@ss ali%40ce p%40ss") == "*** *** *** ***"


def test_a_file_is_a_folder_of_this_host() -> None:
    assert Address.of_url("file:///a/b%20c").folder == Path("/a/b c")
    assert Address.of_url("file://localhost/a").folder == Path("/a")
    assert Address.of_url("redis://h").folder is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("secret", "expected file:///a/folder, redis://"),
        ("", "expected file:///a/folder, redis://"),
        ("memcached://:secret@h", "expected file:///a/folder, redis://"),
        ("redis:///0", "expected file:///a/folder, redis://"),
        ("file://secret/folder", "three slashes"),
        ("file:///", "three slashes"),
        ("file:///a?secret", "%3F"),
        ("redis://:sec/ret@h:1/0", "%2F"),
        ("redis://h:secret/0", "%2F"),
        ("redis://:secret@h:123456/0", "%2F"),
        ("redis://[secret/0", "%2F"),
    ],
)
def test_a_url_that_names_no_store_is_refused_without_it(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Address.of_url(url)

    message = str(raised.value)
    assert message.startswith("VECTOR_CACHE_URL: ")
    assert why in message
    for part in ("secret", "sec/", "123456"):
        assert part not in message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
