"""Measures how far vectors move in each precision: `python -m bench.drift`.

The reference is torch in float32. The models are the demo model and a trained text model
(all-MiniLM-L6-v2), with inputs that they were not trained on, and full-size towers with random
weights. bfloat16 and float16 are torch's, slow without instructions for them, but with the same
rounding. int8 is OpenVINO's, by this machine's instructions.

    cosine      of a vector to the same in float32: the median, and the worst
    recall@10   the share of the ten nearest in float32 (images of a caption, or texts of a
                text) that remain. It means nothing for random towers, whose vectors are close
                together.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from unittest import mock

import numpy as np

from backends.embed import embed
from backends.folder import detect
from backends.model import Modality, Model, ModelOptions, Precision, Rows
from backends.replicas import load_replica
from backends.similarity import cosines, recall, similarity
from bench import families
from bench.report import table
from bench.service import ROOT
from bench.trained import docstrings, trained_encoder
from config import forbid_hub_access, limit_compute_threads
from demo.evaluate import make_gallery
from machine import usable_cores

_IMAGES = 200
_BATCH = 4  # an image may be 17 tiles
_SEED = 1
_BY_TORCH: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
_BY_OPENVINO: tuple[Precision, ...] = ("float32", "int8")

Given: TypeAlias = Mapping[Modality, Sequence[Any]]
Vectors: TypeAlias = Mapping[Modality, Rows]


def main() -> None:
    """Print the table of all models and precisions."""
    parser = argparse.ArgumentParser("bench.drift", description="Measure what precision costs.")
    parser.add_argument("--family", choices=families.FAMILIES, nargs="*", default=["openai"])
    parser.add_argument("--images", type=int, default=_IMAGES, help="and captions, of each")
    options = parser.parse_args()
    forbid_hub_access()
    limit_compute_threads(usable_cores())
    logging.disable(logging.INFO)
    gallery = make_gallery(_SEED, options.images)
    drawn: Given = {"text": gallery.captions, "image": gallery.images}
    rows = list(_rows("demo", ROOT / "demo/models", drawn))
    with TemporaryDirectory() as folder:
        rows += _rows("all-MiniLM-L6-v2", trained_encoder(Path(folder)), {"text": docstrings()})
    for family in options.family:
        rows += _rows(family, families.model_folder(family), drawn)
    columns = ("model", "computed by", "cosine of images", "cosine of texts", "recall@10")
    print(table(columns, rows))


def _rows(name: str, folder: Path, given: Given) -> Iterator[tuple[str, ...]]:
    exact = _vectors(_load(folder, ModelOptions()), given)
    for precision in _BY_OPENVINO:
        options = ModelOptions(runtime="openvino", precision=precision)
        model = load_replica(detect(folder), options)
        served = f"{model.info.runtime}, {model.info.precision}"  # may differ from the options
        yield name, served, *_compare(exact, _vectors(model, given))
    for precision in _BY_TORCH[1:]:
        rough = _vectors(_load(folder, ModelOptions(precision=precision)), given)
        yield name, f"torch, {precision}", *_compare(exact, rough)


def _load(folder: Path, options: ModelOptions) -> Model:
    from backends.runtimes.torch import devices as torch_devices

    with mock.patch.object(torch_devices, "precisions", return_value=_BY_TORCH):
        return load_replica(detect(folder), options)


def _vectors(model: Model, given: Given) -> Vectors:
    return {
        modality: np.concatenate(
            [
                embed(model.towers[modality], inputs[at : at + _BATCH])
                for at in range(0, len(inputs), _BATCH)
            ]
        )
        for modality, inputs in given.items()
        if modality in model.towers
    }


def _compare(exact: Vectors, rough: Vectors) -> tuple[str, str, str]:
    of_each = {modality: cosines(rows, rough[modality]) for modality, rows in exact.items()}
    before, after = (similarity(of["text"], of.get("image")) for of in (exact, rough))
    images, texts = (_told(of_each.get(modality)) for modality in ("image", "text"))
    return images, texts, f"{recall(before, after):.3f}"


def _told(found: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None) -> str:
    return "" if found is None else f"{np.median(found):.6f}, {np.min(found):.6f}"


if __name__ == "__main__":
    main()
