"""How far vectors move in each precision: `python -m bench.drift`.

Beside torch in float32, with captions and pictures that the demo model never saw: by that model,
and by full-size towers with random weights. A precision that this machine has no instructions for
is imitated by torch, slowly: rounding is the same wherever it is done.

    cosine      between a vector and the same in float32; the median, and the worst
    recall@10   of the ten pictures nearest to a caption in float32, the share that is still there
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from backends.embed import embed
from backends.folder import detect
from backends.load import load_replica
from backends.model import Model, ModelOptions, Precision, Rows
from bench import families
from bench.report import table
from bench.service import ROOT
from config import forbid_hub_access, limit_compute_threads
from demo.evaluate import Gallery, make_gallery
from machine import usable_cores

_NEAREST = 10
_PICTURES = 200
_BATCH = 4  # a picture may be 17 tiles
_SEED = 1
_EVERY: tuple[Precision, ...] = ("float32", "bfloat16", "float16")


class Vectors(NamedTuple):
    """Vectors of captions and of pictures, scaled to length 1: [n, dim] each."""

    texts: Rows
    pictures: Rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("bench.drift", description="Measure what precision costs.")
    parser.add_argument("--family", choices=families.FAMILIES, nargs="*", default=["openai"])
    parser.add_argument("--pictures", type=int, default=_PICTURES, help="and captions, of each")
    options = parser.parse_args()
    forbid_hub_access()
    limit_compute_threads(usable_cores())
    logging.disable(logging.INFO)
    gallery = make_gallery(_SEED, options.pictures)
    rows = _rows("demo", ROOT / "demo/models", gallery)
    for family in options.family:
        rows += _rows(family, families.model_folder(family), gallery)
    columns = ("model", "computed by", "cosine of pictures", "cosine of texts", "recall@10")
    print(table(columns, rows))


def _rows(name: str, folder: Path, given: Gallery) -> list[tuple[str, ...]]:
    exact = _vectors(_load(folder, ModelOptions()), given)
    rows: list[tuple[str, ...]] = []
    by_openvino = _vectors(_by_openvino(folder), given)
    rows.append((name, "OpenVINO, float32", *_compare(exact, by_openvino)))
    for precision in _EVERY[1:]:
        rough = _vectors(_load(folder, ModelOptions(precision=precision)), given)
        rows.append((name, f"torch, {precision}", *_compare(exact, rough)))
    return rows


def _load(folder: Path, options: ModelOptions) -> Model:
    from backends.torch import devices as torch_devices

    with mock.patch.object(torch_devices, "precisions", return_value=_EVERY):
        return load_replica(detect(folder), options)


def _by_openvino(folder: Path) -> Model:
    return load_replica(detect(folder), ModelOptions(runtime="openvino"))


def _vectors(model: Model, given: Gallery) -> Vectors:
    texts, pictures = (
        np.concatenate(
            [embed(tower, inputs[at : at + _BATCH]) for at in range(0, len(inputs), _BATCH)]
        )
        for tower, inputs in (
            (model.towers["text"], given.captions),
            (model.towers["image"], given.pictures),
        )
    )
    return Vectors(_unit(texts), _unit(pictures))


def _unit(vectors: Rows) -> Rows:
    unit: Rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _compare(exact: Vectors, rough: Vectors) -> tuple[str, str, str]:
    pictures, texts = (
        np.einsum("ij,ij->i", one.astype(np.float64), two)
        for one, two in ((exact.pictures, rough.pictures), (exact.texts, rough.texts))
    )
    return _told(pictures), _told(texts), f"{_recall(exact, rough):.3f}"


def _told(cosines: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return f"{np.median(cosines):.6f}, {np.min(cosines):.6f}"


def _recall(exact: Vectors, rough: Vectors) -> float:
    nearest = [np.argsort(-(v.texts @ v.pictures.T), axis=1)[:, :_NEAREST] for v in (exact, rough)]
    kept = [len(set(one) & set(two)) / len(one) for one, two in zip(*nearest, strict=True)]
    return float(np.mean(kept))


if __name__ == "__main__":
    main()
