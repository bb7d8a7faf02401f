"""The body of `GET /meta`: the reference container's fields, and fields of this service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from backends.model import Modality, ModelInfo
from config import NAME, VERSION
from inference.vector_cache import CacheStats

if TYPE_CHECKING:
    from inference.store.shared_cache import SharedCache

_SERVICE = {"name": NAME, "version": VERSION}


def meta(
    info: ModelInfo,
    modalities: Sequence[Modality],
    cache: CacheStats,
    shared: SharedCache | None = None,
    models: Sequence[Mapping[str, object]] = (),
) -> dict[str, object]:
    """Return a model's configuration as the reference container does, and more fields.

    Args:
        info: facts about the model.
        modalities: its modalities.
        cache: counts of its lookups in the cache.
        shared: the second level of its cache, or None.
        models: the names and modalities of all models; empty if models have no names.
    """
    store = shared and {
        "store": shared.shown,
        "store_connected": shared.is_connected,
        "store_hits": shared.stats.hits,
    }
    return {
        **info.config,
        "service": {
            **_SERVICE,
            "model": info.name,
            "revision": info.revision or None,
            "family": info.family,
            "modalities": modalities,
            "dimensions": info.dimensions,
            "parameters": info.parameters,
            "runtime": info.runtime,
            "device": info.device,
            "precision": info.precision,
            "precision_refused": info.refused or None,
            "text_mode": info.text_mode,
            "vector_space": None if info.scores else info.vector_space,
            "score_space": info.score_space or None,
            "demo": info.is_demo,
            **({"models": models} if models else {}),
            "cache": {**asdict(cache), **(store or {})},
        },
    }


def meta_of_unloaded(
    name: str,
    info: ModelInfo | None,
    modalities: Sequence[Modality],
    models: Sequence[Mapping[str, object]],
) -> dict[str, object]:
    """Return the facts about a model that is not loaded; all facts if it was loaded before."""
    if info:
        return meta(info, modalities, CacheStats(), None, models)
    own = {"model": name, "modalities": modalities, "models": models}
    return {"service": {**_SERVICE, **own}}
