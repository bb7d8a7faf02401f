"""Checks a model folder for faults that would make the service fail at startup.

    layout -> for each network: its config, its tokenizer, the headers of its weight files

The check takes about a second and needs no model library. It reads names, small files,
vocabularies and the headers of safetensors files. It does not check weight files of other formats,
Python code in the folder, or the values of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from backends.folder import DESCRIPTION, Family, ModelFolder, find_weights, lone_conversions
from backends.headers import OPENCLIP, misfits
from backends.hub_cache import beside_or_cached, hub_snapshot, hub_snapshots
from backends.json_files import read_json
from backends.text_folder import ONNX, TextFolder
from errors import ModelFolderError, describe_error


def faults(folder: ModelFolder) -> list[str]:
    """Return a sentence for each fault of a model folder; each sentence names the faulty file."""
    try:
        return list(_OF_FAMILY[folder.family](folder))
    except ModelFolderError as error:
        return [str(error)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"The {folder.family} model in {folder.root.absolute()}"
        return [f"{what} is broken: {type(error).__name__}: {describe_error(error)}"]


# --- the families


def _openai(folder: ModelFolder) -> Iterator[str]:
    yield from _network(folder.part("openai_clip"))
    yield from _tokenizer(folder.part("openai_clip_processor"))
    yield from _processor(folder.part("openai_clip_processor"))


def _siglip(folder: ModelFolder) -> Iterator[str]:
    part = folder.part("siglip")
    processors = hub_snapshot(part, folder.hub_name) or part
    yield from _network(part)
    yield from _tokenizer(processors)
    yield from _processor(processors)


def _modernvbert(folder: ModelFolder) -> Iterator[str]:
    for name in ("colpali_engine_model", "colpali_engine_processor"):
        snapshot = hub_snapshot(folder.part(name), folder.hub_name)
        if not snapshot:
            yield f"{folder.part(name).absolute()} holds no files of {folder.hub_name}"
        elif name == "colpali_engine_model":
            yield from _network(snapshot)
        else:
            yield from _tokenizer(snapshot)
            yield from _processor(snapshot)


def _qwen3_vl(folder: ModelFolder) -> Iterator[str]:
    part, name = folder.part("qwen3"), folder.hub_name
    if snapshot := hub_snapshot(part, name):
        yield from _network(snapshot)
    else:
        yield f"{part.absolute()} holds no files of {name}"
    if processors := folder.processors:
        yield from _tokenizer(processors)
        yield from _processor(processors)
    else:
        yield f"{part.absolute()} holds no tokenizer of {name}, nor does the hub's default cache"


def _openclip(folder: ModelFolder) -> Iterator[str]:
    part = folder.part("openclip")
    files = (part / "open_clip_config.json", part / "config.json")
    described = [read_json(path, dict) for path in files if path.is_file()]
    known = [one.get("model_cfg") or one.get("model_config") for one in described]
    architecture: dict[str, Any] = next(filter(None, known), {})
    weights = find_weights(part, *hub_snapshots(part))
    if not weights:
        yield f"{part.absolute()} holds no weights, nor a hub cache with any"
    elif weights.suffix == ".safetensors":
        yield from misfits(weights, OPENCLIP, architecture)
    text = architecture.get("text_cfg", {})
    if name := text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        if tower := beside_or_cached(part, name):
            yield from _tokenizer(tower)
        else:
            yield f"{part.absolute()} lacks the config and the tokenizer of its text tower, {name}"


def _sentence_transformers(folder: ModelFolder) -> Iterator[str]:
    clip, text = folder.part("clip"), folder.part("text")
    yield from _modules(clip)
    if not any(clip.rglob("*processor_config.json")):
        yield f"{clip.absolute()} has no preprocessor_config.json: it is no model for images"
    if clip.resolve() != text.resolve():
        yield from _modules(text)


def _text(folder: ModelFolder) -> Iterator[str]:
    text = TextFolder.open(folder)
    match text.kind:
        case "sentence_transformers" | "model2vec":
            yield from _modules(text.snapshot)
        case "onnx":
            yield from _filled(text.path / ONNX)
            yield from _tokenizer(text.path)
        case _:
            yield from _network(text.path)
            yield from _tokenizer(text.path)


def _converted(folder: ModelFolder) -> Iterator[str]:
    for path in lone_conversions(folder.root):
        for tower in read_json(path / DESCRIPTION, dict)["towers"].values():
            for stage in tower["network"].get("stages", [tower["network"]]):
                network = path / stage["file"]
                yield from _filled(network)
                yield from _filled(network.with_suffix(".bin"))
        yield from _tokenizer(path)


_OF_FAMILY: Mapping[Family, Callable[[ModelFolder], Iterator[str]]] = {
    "openai": _openai,
    "openclip": _openclip,
    "siglip": _siglip,
    "modernvbert": _modernvbert,
    "qwen3_vl": _qwen3_vl,
    "sentence_transformers": _sentence_transformers,
    "text": _text,
    "converted": _converted,
}


def _network(path: Path) -> Iterator[str]:
    """Yield faults of a network that transformers saved: its config, its weight headers."""
    config = read_json(path / "config.json", dict)
    index = path / "model.safetensors.index.json"
    weights = index if index.is_file() else find_weights(path)
    if not weights:
        yield _no_weights(path)
    elif weights.suffix != ".safetensors" and weights != index:
        yield from _filled(weights)
    else:
        yield from misfits(weights, str(config.get("model_type")), config)


def _no_weights(path: Path) -> str:
    return f"{path.absolute()} holds no weights: no *.safetensors, *.bin or *.pt file"


def _modules(path: Path) -> Iterator[str]:
    """Yield faults of a sentence-transformers model; without `modules.json` check one network."""
    listed = path / "modules.json"
    modules = read_json(listed, list) if listed.is_file() else [{"path": "", "type": "Transformer"}]
    for number, module in enumerate(modules):
        files = path / module["path"]
        name = module["type"].rpartition(".")[2]
        if name in {"Transformer", "CLIPModel"}:
            yield from _network(files)
        elif weights := find_weights(files):
            yield from misfits(weights)
        elif name in {"StaticEmbedding", "Dense"}:
            yield _no_weights(files)
        if number == 0 and name in {"Transformer", "CLIPModel", "StaticEmbedding"}:
            yield from _tokenizer(files)


def _filled(path: Path) -> Iterator[str]:
    if not path.is_file() or not path.stat().st_size:
        yield f"{path.absolute()} is {'empty' if path.is_file() else 'missing'}"


def _processor(path: Path) -> Iterator[str]:
    if not any(path.glob("*processor_config.json")):
        yield f"{path.absolute()} has no preprocessor_config.json: its preprocessing is unknown"


# --- tokenizers


class _Added(msgspec.Struct):
    content: str


class _Vocabulary(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _TokenizerFile(msgspec.Struct):
    model: _Vocabulary
    added_tokens: list[_Added] = []


_BINARY = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def _tokenizer(path: Path) -> Iterator[str]:
    """Yield a fault if the vocabulary is missing or holds special tokens only."""
    if (file := path / "tokenizer.json").is_file():
        try:
            read = msgspec.json.decode(file.read_bytes(), type=_TokenizerFile)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            yield f"{file.absolute()} is no tokenizer: {error}"
            return
        words = read.model.vocab
        known = set(words) if isinstance(words, dict) else {word for word, _ in words}
        usual = known - {token.content for token in read.added_tokens}
    elif (file := path / "vocab.txt").is_file():
        usual = {line for line in file.read_text("utf-8").splitlines() if line[:1] not in "[<"}
    elif (file := path / "vocab.json").is_file():
        usual = {word for word in read_json(file, dict) if word[:1] != "<"}
    elif binary := next((one for name in _BINARY if (one := path / name).is_file()), None):
        yield from _filled(binary)
        return
    else:
        yield f"{path.absolute()} holds no tokenizer: neither tokenizer.json nor a vocabulary"
        return
    if not usual:
        yield f"{file.absolute()} is a vocabulary of special tokens alone: it can read no text"
