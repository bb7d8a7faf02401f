"""A process of its own: a model folder -> the same model for OpenVINO, and the proof.

    python -m inference.backends.converting < job.json      (see `jobs.py`)

The proof embeds texts and pictures of many kinds by the family's own libraries and by what was
made, and compares the vectors: whatever a family does that was not carried over shows here.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from PIL import Image
from torch import Tensor, nn

from inference.backends import load_towers
from inference.backends.base import BackendOptions, EmbeddingBackend, Embeddings, TextMode
from inference.backends.conversion import IMAGES, REFUSAL, TEXTS, Description
from inference.backends.jobs import Answer, do_job
from inference.backends.openvino_runtime import load_converted
from inference.backends.tokens import Padding
from inference.backends.torch_runtime import Portable, Towers, backend_of
from inference.errors import ConversionError
from inference.model_folder import detect
from inference.staging import why

LEAST_COSINE, LENGTH_TOLERANCE = 0.999999, 1e-4

_PROOF_TEXTS = (
    "a photo of a cat",
    "A Cat, sitting on a MAT; isn't it?",
    "",
    "  spaces\tand\nlines  ",
    "Größe, naïveté, Ελληνικά, кириллица, 日本語, हिन्दी, العربية",
    "emoji 😀👩‍👩‍👧 and signs: €, ½, ﬁ, №, <b>&amp;amp;</b>, snake_case, </s>, [SEP]",
    "3.14159 1,000,000 x=y*z #hashtag @name https://example.org/?q=1",
    "ΟΔΟΣ ΣΟΦΟΣ İstanbul STRASSE",
    " ".join(map(str, range(1500))),  # longer than any of these models reads
)


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        root: the model folder.
        target: the folder to write.
        text_mode: as in `BackendOptions`.
        trust: whether the model may run Python code of its own.
    """

    root: str
    target: str
    text_mode: TextMode
    trust: bool


def do(job: Job) -> Answer:
    """Convert, and prove; or leave the reason why this model cannot be converted.

    Raises:
        StartupError: the folder cannot be loaded.
        OSError, MemoryError: the machine is at fault, not the model; another try may succeed.
    """
    options = BackendOptions(text_mode=job.text_mode, trust_remote_code=job.trust)
    towers = load_towers(detect(Path(job.root)), options)
    original = backend_of(towers)
    target = Path(job.target)
    target.mkdir()
    try:
        _write(towers, towers.portable(), target)
        _prove(original, load_converted(target, options))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever this model cannot do, it cannot do later
        shutil.rmtree(target)
        target.mkdir()
        (target / REFUSAL).write_text(f"{why(error)}\n", "utf-8")
    return {}


def _write(towers: Towers, portable: Portable, target: Path) -> None:
    torch.backends.mha.set_fastpath_enabled(value=False)  # its fused operation cannot be converted
    height, width = _pixels_of(towers).shape[1:]
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    _save(towers.images, (pixels,), [-1, 3, height, width], target / IMAGES)
    ids, shape = _example_ids(portable.recipe.padding)
    arrays = (ids, torch.ones_like(ids)) if portable.recipe.padding.masked else (ids,)
    _save(portable.texts, arrays, shape, target / TEXTS)
    portable.save_vocabulary(target)
    Description(towers.info, portable.geometry, portable.recipe).write(target)


def _pixels_of(towers: Towers) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return towers.preprocess(Image.new("RGB", (64, 48)))


def _example_ids(padding: Padding) -> tuple[Tensor, list[int]]:
    if padding.to == "length":
        return torch.ones(2, padding.length, dtype=torch.long), [-1, padding.length]
    return torch.ones(2, 7, dtype=torch.long), [-1, -1]


def _save(network: nn.Module, example: Sequence[Tensor], shape: list[int], path: Path) -> None:
    with torch.inference_mode():
        model = ov.convert_model(network, example_input=tuple(example))
    model.reshape(dict.fromkeys(range(len(example)), ov.PartialShape(shape)))
    try:
        ov.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # of a full disk it says "iostream error"
        raise OSError(errno.EIO, f"{path} cannot be written; is the disk full?") from error


def _prove(original: EmbeddingBackend, made: EmbeddingBackend) -> None:
    expected = original.encode_text(_PROOF_TEXTS)
    _compare("texts", expected, made.encode_text(_PROOF_TEXTS))
    alone = [made.encode_text([text]) for text in _PROOF_TEXTS]  # of other lengths, in one row
    _compare("texts", expected, np.concatenate(alone))
    pictures = _proof_pictures()
    expected, given = (
        backend.encode_image([backend.preprocess(picture) for picture in pictures])
        for backend in (original, made)
    )
    _compare("images", expected, given)


def _compare(what: str, expected: Embeddings, given: Embeddings) -> None:
    lengths = np.linalg.norm(expected, axis=1), np.linalg.norm(given, axis=1)
    cosines = np.einsum("ij,ij->i", expected.astype(np.float64), given) / (lengths[0] * lengths[1])
    apart = np.abs(lengths[0] - lengths[1]) / np.maximum(lengths[0], 1)
    if not (cosines.min() >= LEAST_COSINE and apart.max() <= LENGTH_TOLERANCE):
        raise ConversionError(
            f"the converted model's {what} differ from the original's: cosine {cosines.min():.7f}, "
            f"lengths by {apart.max():.1g}"
        )


def _proof_pictures() -> list[Image.Image]:
    """Draw noise and soft colours in many shapes and modes; always the same."""
    random = np.random.default_rng(0)
    pictures: list[Image.Image] = []
    for number, (width, height) in enumerate(
        [(640, 480), (300, 900), (900, 200), (64, 48), (223, 225), (500, 501)]
    ):
        grain = (height, width) if number % 2 else (6, 8)
        values = random.integers(0, 256, (*grain, 4), dtype=np.uint8)
        picture = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
        pictures.extend(picture.convert(mode) for mode in ("RGB", "RGBA", "L"))
    return [*pictures, pictures[0].quantize(16), pictures[0].convert("1")]


if __name__ == "__main__":
    do_job(lambda described: do(Job(**described)))
