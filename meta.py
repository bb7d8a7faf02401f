"""The body of `GET /meta`: the reference container's fields, and fields of this service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from backends.model import Modality, ModelInfo
from config import VERSION
from inference.vector_cache import CacheStats

if TYPE_CHECKING:
    from inference.store.shared_cache import SharedCache


def meta(
    info: ModelInfo,
    modalities: Sequence[Modality],
    cache: CacheStats,
    shared: SharedCache | None = None,
) -> dict[str, object]:
    """Return the model's configuration as the reference container does, and more fields."""
    store = shared and {
        "store": shared.shown,
        "store_connected": shared.is_connected,
        "store_hits": shared.stats.hits,
    }
    return {
        **info.config,
        "service": {
            "name": "multi2vec-clip-service",
            "version": VERSION,
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
            "cache": {**asdict(cache), **(store or {})},
        },
    }
