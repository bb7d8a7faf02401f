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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.folder import ModelFolder
from backends.inputs.pixels import Geometry
from backends.inputs.tokens import Padding, TextRecipe, beginning
from backends.model import BackendOptions, Embeddings
from backends.torch.runtime import (
    ImageTower,
    Normalize,
    Portable,
    TorchNetwork,
    Towers,
    describe,
    identity,
    place,
    preprocess_of,
)
from errors import ConversionError, ModelFolderError

logging.getLogger("sentence_transformers").setLevel(logging.WARNING)  # our own line says it


def load(folder: ModelFolder, options: BackendOptions) -> Towers:
    """Load `clip/` and `text/`; equal folders are loaded once."""
    clip_path, text_path = folder.part("clip"), folder.part("text")
    clip = _load_model(clip_path, options)
    shared = same_content(clip_path, text_path)
    text = clip if shared else _load_model(text_path, options)
    processor = CLIPImageProcessorPil.from_pretrained(_network_folder(clip_path))
    if not shared:
        _drop_text_tower(clip)
    preprocess = preprocess_of(Geometry.of_processor(processor, "pillow"))
    info = describe(
        folder,
        options,
        family="sentence-transformers",
        dimensions=text.get_embedding_dimension() or 0,
        image_px=preprocess.geometry.shorter_side_px,
        networks=[clip, text],
        config={"clip_model": _config(clip), "text_model": _config(text)},
    )
    return Towers(
        info,
        preprocess,
        _image_tower(clip, processor),
        _TextTower(text),
        lambda: _portable(text, preprocess.geometry),
    )


def same_content(first: Path, second: Path) -> bool:
    """Tell whether two folders hold the same files, byte for byte."""
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    others = sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    return files == others and all(
        filecmp.cmp(first / file, second / file, shallow=False) for file in files
    )


def _image_tower(model: SentenceTransformer, processor: Any) -> nn.Module:
    network = _sentence_embedding(model)
    normalize = Normalize(processor.image_mean, processor.image_std, processor.rescale_factor)
    return ImageTower(
        normalize,
        lambda values: network({"pixel_values": values, "modality": "image"}),
        model,
        identity,
    ).to(model.device)


class _TextTower:
    def __init__(self, model: SentenceTransformer) -> None:
        self.truncated_texts = 0
        self.model = model
        self._encode = TorchNetwork(_sentence_embedding(model), str(model.device))

    def __call__(self, texts: Sequence[str]) -> Embeddings:
        length = self.model.max_seq_length  # None: it reads a text of any length
        texts = [beginning(text, length) if length else text for text in texts]
        features = self.model.preprocess(texts)
        self.truncated_texts += self._count_cut(texts, features)
        return self._encode(features)

    def _count_cut(self, texts: Sequence[str], features: dict[str, Any]) -> int:
        # Models of the kind that reads a text of any length have neither.
        length, mask = self.model.max_seq_length, features.get("attention_mask")
        if length is None or mask is None:
            return 0
        full = (mask.sum(dim=-1) >= length).nonzero().flatten().tolist()
        return sum(hf.is_longer(self.model.tokenizer, texts[row], length) for row in full)


class _TextNetwork(nn.Module):
    """The networks of a text model over ids and mask, for another runtime."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        features = {"input_ids": ids, "attention_mask": mask, "modality": "text"}
        return _sentence_embedding(self.model)(features)


def _sentence_embedding(model: SentenceTransformer) -> Callable[[dict[str, Any]], Tensor]:
    def network(features: dict[str, Any]) -> Tensor:
        vectors: Tensor = model(features)["sentence_embedding"]
        return vectors

    return network


def _portable(text: SentenceTransformer, geometry: Geometry) -> Portable:
    length = text.max_seq_length
    if length is None:
        raise ConversionError("its text model says of no length how much it reads")
    if text.tokenizer.padding_side != "right":
        raise ConversionError("its tokenizer pads on the left")
    padding = Padding("longest", text.tokenizer.pad_token_id, masked=True)
    recipe = TextRecipe(length, "nothing", padding)  # what lower-cases is in the vocabulary
    save = partial(hf.save_vocabulary, text.tokenizer)
    return Portable(geometry, save, recipe, _TextNetwork(text))


def _load_model(path: Path, options: BackendOptions) -> SentenceTransformer:
    model = SentenceTransformer(
        str(path),
        device="cpu",
        local_files_only=True,
        trust_remote_code=options.trust_remote_code,
    )
    placed: SentenceTransformer = place(model, options)
    return placed


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
