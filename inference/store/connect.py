"""Makes the store that VECTOR_CACHE_URL names, and the shared cache in front of it."""

from __future__ import annotations

from functools import partial

from backends.model import ModelInfo
from inference.store.address import Address
from inference.store.base import Store
from inference.store.entry import EntryFormat, library_versions
from inference.store.shared_cache import SharedCache


def parse_address(url: str) -> Address:
    """Parse a URL, and check that its store can be used here; no request goes to a server.

    Raises:
        ConfigurationError: the URL names no store, or a store that cannot be used here.
    """
    address = Address.of_url(url)
    if address.folder:
        from inference.store.file_store import check_folder

        check_folder(address.folder)
    else:
        from inference.store.redis_store import check_package

        check_package()
    return address


def make_store(address: Address, max_bytes: int, timeout_s: float) -> Store:
    """Return the store, not yet open.

    Args:
        address: address of the store.
        max_bytes: maximum bytes of a file store; ignored for Redis.
        timeout_s: maximum seconds of an operation; a slower one fails.
    """
    if address.folder:
        from inference.store.file_store import FileStore

        return FileStore(address.folder, max_bytes, timeout_s)
    from inference.store.redis_store import RedisStore

    return RedisStore(address, timeout_s)


def shared_cache(
    address: Address, info: ModelInfo, secret: str, max_bytes: int, timeout_ms: float
) -> SharedCache:
    """Return the shared cache for a model's vectors, not yet open."""
    dimensions = 1 if info.scores else info.dimensions
    entries = EntryFormat(dimensions, library_versions(info.runtime), secret)
    return SharedCache(
        address.shown, partial(make_store, address, max_bytes), entries, timeout_ms / 1000
    )
