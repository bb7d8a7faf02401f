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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.folder import ModelFolder
from backends.inputs.one_part import OnePart
from backends.inputs.pixels import Geometry, PixelPreparation
from backends.inputs.tokens import (
    CHARS_OF_A_TOKEN,
    Padding,
    TextRecipe,
    TokenPreparation,
    Tokens,
    beginning,
)
from backends.model import Arrays, ModelOptions, Prepared, Shaping
from backends.torch.resizing import preprocess_of
from backends.torch.towers import (
    EVERY_TEXT_MODE,
    ImageTower,
    Normalize,
    Portable,
    TorchModel,
    TorchTower,
    describe,
    identity,
    place,
    portable_images,
    portable_texts,
)
from errors import ConversionError, ModelFolderError

logging.getLogger("sentence_transformers").setLevel(logging.WARNING)  # our own line says it


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `clip/` and `text/`; equal folders are loaded once."""
    clip_path, text_path = folder.part("clip"), folder.part("text")
    clip = _load_model(clip_path, options)
    shared = same_content(clip_path, text_path)
    text = clip if shared else _load_model(text_path, options)
    processor = CLIPImageProcessorPil.from_pretrained(_network_folder(clip_path))
    if not shared:
        _drop_text_tower(clip)
    geometry = Geometry.of_processor(processor, "pillow")
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
    return TorchModel(info, {"text": _text_tower(text), "image": image}, EVERY_TEXT_MODE)


def same_content(first: Path, second: Path) -> bool:
    """Tell whether two folders hold the same files, byte for byte."""
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    others = sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    return files == others and all(
        filecmp.cmp(first / file, second / file, shallow=False) for file in files
    )


def _image_tower(model: SentenceTransformer, processor: Any, geometry: Geometry) -> TorchTower:
    network = _sentence_embedding(model)
    normalize = Normalize(processor.image_mean, processor.image_std, processor.rescale_factor)
    module = ImageTower(
        normalize,
        lambda values: network({"pixel_values": values, "modality": "image"}),
        model,
        identity,
    ).to(model.device)
    return TorchTower(
        PixelPreparation(preprocess_of(geometry)),
        module,
        lambda: portable_images(module, geometry),
    )


_IDS, _MASK, _SEGMENTS = "input_ids", "attention_mask", "token_type_ids"


def _text_tower(model: SentenceTransformer) -> TorchTower:
    features = _tensors(model, "a text")
    if reason := _why_of_its_own(model, features):
        module = _TextNetwork(model, sorted(features))
        return TorchTower(_Features(model, sorted(features)), module, partial(_refuse, reason))
    module = _TextNetwork(model, (_IDS, _MASK))
    padding = Padding("rounded", model.max_seq_length, model.tokenizer.pad_token_id, masked=True)
    recipe = TextRecipe("nothing", padding)  # what lower-cases is in the vocabulary
    return TorchTower(
        TokenPreparation(_Tokenize(model), padding),
        module,
        lambda: portable_texts(module, recipe, partial(hf.save_vocabulary, model.tokenizer)),
    )


def _why_of_its_own(model: SentenceTransformer, features: Mapping[str, Tensor]) -> str | None:
    """Say why a text model's input is not ids and a mask that may be padded at the end."""
    if not {_IDS, _MASK} <= features.keys() <= {_IDS, _MASK, _SEGMENTS}:
        return f"its text model reads {' and '.join(sorted(features))}"
    if model.max_seq_length is None:
        return "its text model says of no length how much it reads"
    if model.tokenizer.padding_side != "right":
        return "its tokenizer pads on the left"
    return None


def _refuse(reason: str) -> Portable:
    raise ConversionError(reason)


def _tensors(model: SentenceTransformer, text: str) -> dict[str, Tensor]:
    found = model.preprocess([text])
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


class _Tokenize:
    """The tokenizer of a text model that reads ids and a mask."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self._lock = Lock()  # it notes where to cut in itself, at every call

    def __call__(self, text: str) -> Tokens:
        length = self._model.max_seq_length
        text = beginning(text, length)
        with self._lock:
            ids: list[int] = _tensors(self._model, text)[_IDS][0].tolist()
            return Tokens(ids, hf.is_cut(self._model.tokenizer, text, ids, length))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out."""
        with self._lock:
            return hf.text_of(self._model.tokenizer, ids)


class _Features(OnePart):
    """The input of any other text model, as its own library makes it of a text.

    Args:
        model: which one.
        names: the features that its network takes, in this order.
    """

    def __init__(self, model: SentenceTransformer, names: Sequence[str]) -> None:
        self._model = model
        self._names = names
        self._lock = Lock()

    def estimate(self, text: str) -> int:
        """Guess the tokens."""
        return 1 + len(text) // CHARS_OF_A_TOKEN

    def prepare(self, text: str, _shaping: Shaping) -> Prepared:
        """Return the features; those without a mask say nothing of rows, and share no pass."""
        length = self._model.max_seq_length  # None: it reads a text of any length
        text = beginning(text, length) if length else text
        with self._lock:
            features = _tensors(self._model, text)
            cut = _MASK in features and length
            ids = features[_IDS].flatten().tolist() if _IDS in features else []
            truncated = bool(cut) and hf.is_cut(self._model.tokenizer, text, ids, length)
        arrays = tuple(features[name].numpy() for name in self._names)
        cost = max(len(ids), 1)
        if _MASK not in features:
            return Prepared(arrays, None, cost, len(ids), truncated)
        shapes = tuple(array.shape for array in arrays)
        return Prepared(tuple(array[0] for array in arrays), shapes, cost, len(ids), truncated)

    def collate(self, items: Sequence[Prepared]) -> Arrays:
        """Stack rows of equal shapes; what is alone comes with the axis of its batch."""
        return items[0].arrays if items[0].bucket is None else super().collate(items)

    @override
    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out."""
        with self._lock:
            return hf.text_of(self._model.tokenizer, ids)


class _TextNetwork(nn.Module):
    """The networks of a text model over its features, in the order of their names."""

    def __init__(self, model: SentenceTransformer, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._names = tuple(names)

    @override
    def forward(self, *arrays: Tensor) -> Tensor:
        features = dict(zip(self._names, arrays, strict=True))
        return _sentence_embedding(self.model)({**features, "modality": "text"})


def _sentence_embedding(model: SentenceTransformer) -> Callable[[dict[str, Any]], Tensor]:
    def network(features: dict[str, Any]) -> Tensor:
        vectors: Tensor = model(features)["sentence_embedding"]
        return vectors

    return network


def _load_model(path: Path, options: ModelOptions) -> SentenceTransformer:
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
    network = getattr(model[0], "model", None)  # one that only looks rows up has none
    return dict(hf.full_config(network) if network else model[0].get_config_dict())
