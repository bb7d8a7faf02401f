"""sentence-transformers: a CLIP model for images, and the same CLIP or a text model for texts.

See https://huggingface.co/sentence-transformers/clip-ViT-B-32 and
https://huggingface.co/sentence-transformers/clip-ViT-B-32-multilingual-v1

Source of the normalization: the reference's `clip.py` returns the vectors of
`SentenceTransformer.encode`, which are normalized only if the model has a module that normalizes.
Source of the pixels: sentence-transformers 3, which resizes with Pillow; later versions use
torchvision.
"""

from __future__ import annotations

import filecmp
import logging
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from transformers import CLIPImageProcessorPil

from backends.families import transformers_models as hf
from backends.families.sentence_modules import (
    load_sentence_transformer,
    sentence_embedding,
    text_tower,
)
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.preprocessing.pixels import Geometry, PixelProcessor
from backends.runtimes.torch.resizing import make_preprocess
from backends.runtimes.torch.towers import (
    EVERY_TEXT_MODE,
    ImageTower,
    Normalize,
    TorchModel,
    TorchTower,
    describe,
    identity,
    portable_images,
)
from errors import ModelFolderError

logger = logging.getLogger(__name__)


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `clip/` and `text/`; if both folders have the same content, load only one model."""
    clip_path, text_path = folder.part("clip"), folder.part("text")
    network_path = _network_folder(clip_path)
    clip = load_sentence_transformer(clip_path, options)
    shared = same_content(clip_path, text_path)
    text = clip if shared else load_sentence_transformer(text_path, options)
    processor = CLIPImageProcessorPil.from_pretrained(network_path)
    if not shared:
        # Another model embeds the texts, so the weights of CLIP's text tower are not needed.
        for part in ("text_model", "text_projection"):
            if hasattr(clip[0].model, part):
                setattr(clip[0].model, part, None)
    geometry = Geometry.from_processor(processor, "pillow")
    _check_dimensions(clip, text)
    info = describe(
        folder,
        options,
        family="sentence-transformers",
        dimensions=text.get_embedding_dimension() or 0,
        image_px=geometry.shorter_side_px,
        networks=[clip, text],
        config={"clip_model": _config(clip), "text_model": _config(text)},
    )
    image = _image_tower(clip, processor, geometry)
    return TorchModel(info, {"text": text_tower(text), "image": image}, EVERY_TEXT_MODE)


def _check_dimensions(clip: SentenceTransformer, text: SentenceTransformer) -> None:
    images, texts = clip.get_embedding_dimension(), text.get_embedding_dimension()
    if images and texts and images != texts:
        logger.warning(
            "Texts have %d dimensions and images %d: they cannot be compared. Do both folders "
            "belong together, and is truncate_dim the same in both?",
            texts,
            images,
        )


def same_content(first: Path, second: Path) -> bool:
    """Return whether two folders hold the same files, byte for byte."""
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    others = sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    return files == others and all(
        filecmp.cmp(first / file, second / file, shallow=False) for file in files
    )


def _image_tower(model: SentenceTransformer, processor: Any, geometry: Geometry) -> TorchTower:
    network = sentence_embedding(model)
    normalize = Normalize(processor.image_mean, processor.image_std, processor.rescale_factor)
    module = ImageTower(
        normalize,
        lambda values: network({"pixel_values": values, "modality": "image"}),
        model,
        identity,
    ).to(model.device)
    return TorchTower(
        PixelProcessor(make_preprocess(geometry)),
        module,
        lambda: portable_images(module, geometry),
    )


def _network_folder(path: Path) -> Path:
    """Return the folder of the CLIP network: the folder itself, or `0_CLIPModel/`."""
    # transformers 5 writes processor_config.json where transformers 4 wrote
    # preprocessor_config.json.
    found = sorted(path.rglob("*processor_config.json"))
    if not found:
        raise ModelFolderError(
            f"{path.absolute()} has no preprocessor_config.json: it is no model for images"
        )
    return found[0].parent


def _config(model: SentenceTransformer) -> dict[str, object]:
    network = getattr(model[0], "model", None)  # a lookup model has none
    return dict(hf.full_config(network) if network else model[0].get_config_dict())
