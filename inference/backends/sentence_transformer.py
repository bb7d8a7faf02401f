"""sentence-transformers: a CLIP for the images, and for the texts the same or any text model.

See https://huggingface.co/sentence-transformers/clip-ViT-B-32 and
https://huggingface.co/sentence-transformers/clip-ViT-B-32-multilingual-v1

Source of the vectors' length: the reference's `clip.py` takes what `SentenceTransformer.encode`
gives, which is normalised only where the model has a module that does so. Source of the pixels:
sentence-transformers 3 resized by Pillow, where today's uses torchvision.
"""

from __future__ import annotations

import filecmp
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil

from inference.backends import transformers_models as hf
from inference.backends.base import BackendOptions
from inference.backends.pixels import PixelsToNumbers, Preprocess, resize_by_pillow
from inference.backends.tokens import beginning, is_longer
from inference.backends.two_towers import TwoTowerBackend, checked_device, describe
from inference.errors import ModelFolderError
from inference.model_folder import ModelFolder

logging.getLogger("sentence_transformers").setLevel(logging.WARNING)  # our own line says it


def load(folder: ModelFolder, options: BackendOptions) -> TwoTowerBackend:
    """Load `clip/` and `text/`; equal folders are loaded once."""
    clip_path, text_path = folder.part("clip"), folder.part("text")
    clip = _load_model(clip_path, options)
    shared = same_content(clip_path, text_path)
    text = clip if shared else _load_model(text_path, options)
    processor = CLIPImageProcessorPil.from_pretrained(_network_folder(clip_path))
    if not shared:
        _drop_text_tower(clip)
    preprocess = Preprocess.of_processor(processor, resize_by_pillow)
    info = describe(
        folder,
        options,
        family="sentence-transformers",
        dimensions=text.get_embedding_dimension() or 0,
        image_px=preprocess.shorter_side_px,
        networks=[clip, text],
        config={"clip_model": _config(clip), "text_model": _config(text)},
    )
    return TwoTowerBackend(
        info,
        preprocess,
        _ImageTower(clip, processor).to(clip.device),
        _TextTower(text),
    )


def same_content(first: Path, second: Path) -> bool:
    """Tell whether two folders hold the same files, byte for byte."""
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    others = sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    return files == others and all(
        filecmp.cmp(first / file, second / file, shallow=False) for file in files
    )


class _ImageTower(nn.Module):
    def __init__(self, model: SentenceTransformer, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.numbers = PixelsToNumbers(
            processor.image_mean, processor.image_std, processor.rescale_factor
        )

    def forward(self, pixels: Tensor) -> Tensor:
        features = {"pixel_values": self.numbers(pixels), "modality": "image"}
        vectors: Tensor = self.model(features)["sentence_embedding"]
        return vectors


class _TextTower:
    def __init__(self, model: SentenceTransformer) -> None:
        self.truncated_texts = 0
        self.model = model

    def __call__(self, texts: Sequence[str]) -> Tensor:
        length = self.model.max_seq_length  # None: it reads a text of any length
        texts = [beginning(text, length) if length else text for text in texts]
        features = self.model.preprocess(texts)
        self.truncated_texts += self._count_cut(texts, features)
        on_device = {
            name: value.to(self.model.device) if isinstance(value, Tensor) else value
            for name, value in features.items()
        }
        vectors: Tensor = self.model(on_device)["sentence_embedding"]
        return vectors

    def _count_cut(self, texts: Sequence[str], features: dict[str, Any]) -> int:
        # Models of the kind that reads a text of any length have neither.
        length, mask = self.model.max_seq_length, features.get("attention_mask")
        if length is None or mask is None:
            return 0
        full = (mask.sum(dim=-1) >= length).nonzero().flatten().tolist()
        return sum(is_longer(self.model.tokenizer, texts[row], length) for row in full)


def _load_model(path: Path, options: BackendOptions) -> SentenceTransformer:
    model = SentenceTransformer(
        str(path),
        device=str(checked_device(options.device)),
        local_files_only=True,
        trust_remote_code=options.trust_remote_code,
    )
    hf.place(model, options.device)
    return model


def _network_folder(path: Path) -> Path:
    """Return where the CLIP network lies: in the folder itself, or in `0_CLIPModel/`."""
    # transformers 5 saves a processor_config.json where 4 saved a preprocessor_config.json.
    found = sorted(path.rglob("*processor_config.json"))
    if not found:
        raise ModelFolderError(
            f"{path.absolute()} has no preprocessor_config.json: it is no model for images"
        )
    return found[0].parent


def _drop_text_tower(clip: SentenceTransformer) -> None:
    # The texts have a model of their own: keep no weights that nothing will use.
    for part in ("text_model", "text_projection"):
        if hasattr(clip[0].model, part):
            setattr(clip[0].model, part, None)


def _config(model: SentenceTransformer) -> dict[str, object]:
    return dict(hf.full_config(model[0].model))
