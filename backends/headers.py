"""Checks names and shapes of weights in safetensors headers against a network's config.

It reads no weights and needs no model library: a safetensors file begins with 8 bytes for the
header's length, then the header in JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from backends.json_files import read_json
from errors import ModelFolderError, describe_error

Shape: TypeAlias = tuple[int, ...]
Header: TypeAlias = Mapping[str, Shape]

_MAX_LISTED = 3
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}


class _Tower(NamedTuple):
    """The rules by which a config determines names and shapes of a tower's weights.

    Attributes:
        layers: prefix of the names of a layer's weights, up to the layer's number.
        number: config key of the number of layers.
        part: key of the config's part for this tower; empty for the whole config.
        embedding: possible names of the token embedding; empty if the tower has none.
        shape: config keys of the shape of the token embedding.
    """

    layers: str
    number: str
    part: str = ""
    embedding: Sequence[str] = ()
    shape: tuple[str, str] = ("vocab_size", "hidden_size")


_WORDS = ("embeddings.word_embeddings.weight",)
_BERT = (_Tower("encoder.layer.", "num_hidden_layers", "", _WORDS),)
_CLIP = (
    _Tower(
        *("text_model.encoder.layers.", "num_hidden_layers", "text_config"),
        ("text_model.embeddings.token_embedding.weight",),
    ),
    _Tower("vision_model.encoder.layers.", "num_hidden_layers", "vision_config"),
)
_DECODER = (_Tower("layers.", "num_hidden_layers", "", ("embed_tokens.weight",)),)
OPENCLIP = "openclip"  # stands for a `model_type`; the config is open_clip's `model_cfg`
# `model_type` -> towers. For other types, only the headers are checked.
_TOWERS: Mapping[str, Sequence[_Tower]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "dpr"), _BERT),
    **dict.fromkeys(("clip", "metaclip_2", "siglip", "siglip2"), _CLIP),
    **dict.fromkeys(("gemma3_text", "qwen2", "qwen3", "mistral", "llama"), _DECODER),
    "distilbert": (_Tower("transformer.layer.", "n_layers", "", _WORDS, ("vocab_size", "dim")),),
    "t5": (
        _Tower(
            *("encoder.block.", "num_layers", ""),
            ("shared.weight", "encoder.embed_tokens.weight"),
            ("vocab_size", "d_model"),
        ),
    ),
    OPENCLIP: (
        _Tower("transformer.resblocks.", "layers", "text_cfg"),
        _Tower("visual.transformer.resblocks.", "layers", "vision_cfg"),
    ),
    "modernbert": (
        _Tower("layers.", "num_hidden_layers", "", ("embeddings.tok_embeddings.weight",)),
    ),
    "modernvbert": (
        _Tower("text_model.layers.", "num_hidden_layers", "text_config"),
        _Tower("vision_model.encoder.layers.", "num_hidden_layers", "vision_config"),
    ),
}
# ModernBERT's first layer lacks this weight; in T5's encoder only the first layer has it.
_NOT_IN_THE_FIRST, _IN_THE_FIRST = "attn_norm.weight", "relative_attention_bias.weight"


def _headers(weights: Path) -> Header:
    """Return names and shapes of the weights in a file, or in all files that an index lists."""
    if weights.suffix == ".safetensors":
        return _header(weights)
    if weights.suffix != ".json":
        return {}
    shards = sorted(set(read_json(weights, dict)["weight_map"].values()))
    every = [_header(weights.parent / shard) for shard in shards]
    return {name: shape for header in every for name, shape in header.items()}


def _header(path: Path) -> Header:
    """Read the header of a safetensors file: 8 bytes for its length, then JSON.

    Raises:
        ModelFolderError: the header is broken, or does not match the file's size.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if not 0 < length <= size - 8:
                raise ModelFolderError(f"{path.absolute()} is no complete safetensors file")
            content = json.loads(file.read(length))
        content.pop("__metadata__", None)
        ends = {name: tensor["data_offsets"] for name, tensor in content.items()}
        shapes = {name: tuple(tensor["shape"]) for name, tensor in content.items()}
        types = {name: _BYTES.get(tensor["dtype"]) for name, tensor in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFolderError(f"{path.absolute()} is broken: {describe_error(error)}") from error
    needed = 8 + length + max((end for _, end in ends.values()), default=0)
    if needed != size:
        raise ModelFolderError(
            f"{path.absolute()} has {size} bytes, where its header says {needed}: fetch it again"
        )
    for name, (start, end) in ends.items():
        width = types[name]
        if width and math.prod(shapes[name]) * width != end - start:
            raise ModelFolderError(
                f"{path.absolute()} is broken: the size of {name} does not match its shape"
            )
    return shapes


def misfits(weights: Path, network: str = "", config: Mapping[str, Any] = {}) -> Iterator[str]:
    """Yield a sentence if safetensors weights do not fit a network.

    Args:
        weights: a safetensors file, or an index of several files. Other formats are not checked.
        network: the `model_type`, or `OPENCLIP`; for an unknown type only the headers are checked.
        config: the network's configuration.

    Raises:
        ModelFolderError: a header is broken, or does not match the size of its file.
    """
    header, towers = _headers(weights), _TOWERS.get(network, ())
    wrong = [fault for tower in towers for fault in _misfits(header, tower, config)]
    if wrong:
        more = f", and {len(wrong) - _MAX_LISTED} more" if len(wrong) > _MAX_LISTED else ""
        yield f"{weights.absolute()} does not fit: {', '.join(wrong[:_MAX_LISTED])}{more}"


def _misfits(header: Header, tower: _Tower, config: Mapping[str, Any]) -> Iterator[str]:
    sizes = config.get(tower.part) or {} if tower.part else config
    yield from _embedding_misfits(header, tower, sizes)
    # In OpenCLIP, names of the text tower have no prefix, and are the endings of the image tower's
    # names.
    pattern = re.compile(rf"^(?:.*\.)?(?<!visual\.){re.escape(tower.layers)}(\d+)\.(.+)$")
    layers: dict[int, dict[str, Shape]] = defaultdict(dict)
    for name, shape in header.items():
        if found := pattern.match(name):
            layers[int(found[1])][found[2]] = shape
    stated = sizes.get(tower.number)
    count = stated if isinstance(stated, int) else max(layers, default=-1) + 1
    usual = _usual(layers)
    for layer in range(count):
        if layer not in layers:
            yield f"{tower.layers}{layer} is missing"
            continue
        for name, shape in usual.items():
            there = layers[layer].get(name)
            lacks_it = name == _NOT_IN_THE_FIRST and layer == 0
            if there is None and not (lacks_it or name.endswith(_IN_THE_FIRST)):
                yield f"{tower.layers}{layer}.{name} is missing"
            elif there not in (None, shape):
                yield f"{tower.layers}{layer}.{name} is {list(there or ())}, not {list(shape)}"


def _usual(layers: Mapping[int, Mapping[str, Shape]]) -> dict[str, Shape]:
    """Return the names of a layer's weights, each with the shape that most layers have."""
    shapes: dict[str, Counter[Shape]] = defaultdict(Counter)
    for layer in layers.values():
        for name, shape in layer.items():
            shapes[name][shape] += 1
    return {name: seen.most_common(1)[0][0] for name, seen in shapes.items()}


def _embedding_misfits(header: Header, tower: _Tower, sizes: Mapping[str, Any]) -> Iterator[str]:
    if not tower.embedding:
        return
    there = next(
        (one for name, one in header.items() if name.endswith(tuple(tower.embedding))), None
    )
    stated = tuple(sizes.get(name) for name in tower.shape)
    if there is None:
        yield f"{tower.embedding[0]} is missing"
    elif None not in stated and there != stated:
        yield f"{tower.embedding[0]} is {list(there)}, where the config says {list(stated)}"
