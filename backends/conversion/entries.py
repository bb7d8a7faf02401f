"""Finds the conversion that serves a model, by the content of its original.

    cache_dir/<family>-<text modes>-<recipe>-<content>[-int8]/     see `description.py`

The key of a cache entry is the identity of the model: the content of the original, the version of
the preprocessing, and the text modes that the model serves. Versions of this code and of libraries
are not part of the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from backends.conversion import fingerprint
from backends.conversion.description import Description, FailedConversion
from backends.folder import CONVERSIONS, ModelFolder, conversions, lone_conversions
from backends.identity import PREPROCESSING_VERSIONS, Identity
from backends.model import ModelOptions, Precision, Weights
from errors import ModelFolderError

_SOURCE = "source.json"  # stamps of the original's files
# For each requested precision, the stored weight types that can serve it, the best first. Other
# precisions are computed from float32 weights.
_SERVING: Mapping[Precision | None, Sequence[Weights]] = {
    None: ("float32", "int8"),
    "int8": ("int8", "float32"),
}
# Digests that this process has computed, with the stamps of the files, by model folder. A start
# asks several times, and to read a large model takes seconds.
_digests: dict[Path, tuple[fingerprint.Stamps, str]] = {}


class ConversionEntry(NamedTuple):
    """A folder of the cache: a converted model, or the reason why it cannot be converted."""

    path: Path
    identity: Identity
    weights: Weights = "float32"
    reason: str | None = None  # why the model cannot be converted; None if it was converted

    def is_of(self, folder: ModelFolder, stamps: fingerprint.Stamps) -> bool:
        """Return whether a model was converted to this entry, by the stamps of its files."""
        try:
            recorded: fingerprint.Stamps = json.loads((self.path / _SOURCE).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        is_own = self.path.parent.resolve() == (folder.root / CONVERSIONS).resolve()
        return fingerprint.same_files(recorded, stamps, is_own=is_own)

    @classmethod
    def read(cls, path: Path) -> ConversionEntry:
        """Read the entry of a converted model from its folder."""
        description = Description.read(path)
        return cls(path, description.identity, description.weights)


def record_stamps(path: Path, stamps: fingerprint.Stamps) -> None:
    """Record in a new entry the stamps of the files that it was converted from."""
    (path / _SOURCE).write_text(json.dumps(stamps), "utf-8")


def cache_folder(folder: ModelFolder, options: ModelOptions) -> Path:
    """Return the folder that conversions are written to."""
    return options.cache_dir or folder.root / CONVERSIONS


def serving_weights(options: ModelOptions) -> Sequence[Weights]:
    """Return the stored weight types that can serve the requested precision, the best first."""
    return _SERVING.get(options.precision, ("float32",))


def find(
    folder: ModelFolder, options: ModelOptions, weights: Sequence[Weights]
) -> ConversionEntry | None:
    """Return the best entry of a model with one of some weight types; None if there is none.

    Args:
        folder: the model folder.
        options: the loading options.
        weights: the weight types, the best first.
    """
    entries = list(_all(folder, options))
    fitting = [
        entry
        for entry in entries
        if options.text_mode in entry.identity.text_modes and entry.weights in weights
    ]
    if not fitting:
        return None
    content = _content(folder, entries)
    return min(
        (entry for entry in fitting if entry.identity.content == content),
        key=lambda entry: (entry.reason is not None, weights.index(entry.weights)),
        default=None,
    )


def is_converted(folder: ModelFolder, options: ModelOptions) -> bool:
    """Return whether a model is in the cache, or a record that it cannot be converted."""
    if folder.family == "converted":
        return True
    return find(folder, options, serving_weights(options)) is not None


def known_content(folder: ModelFolder, options: ModelOptions) -> str:
    """Return the digest of a model's files; read them only if their stamps are not known."""
    return _content(folder, _all(folder, options))


def _content(folder: ModelFolder, entries: Iterable[ConversionEntry]) -> str:
    stamps = fingerprint.stamps(folder)
    known = (entry.identity.content for entry in entries if entry.is_of(folder, stamps))
    if content := next(known, None):
        return content
    root = folder.root.absolute()
    seen, content = _digests.get(root, ({}, ""))
    if seen != stamps:
        content = fingerprint.digest_content(folder)
        _digests[root] = (stamps, content)
    return content


def has_float32(folder: ModelFolder, options: ModelOptions) -> bool:
    """Return whether float32 weights are converted already, or torch is there to convert them."""
    if folder.family == "converted":
        return any(entry.weights == "float32" for entry in _lone(folder, options))
    return find_spec("torch") is not None or find(folder, options, ("float32",)) is not None


def find_lone(folder: ModelFolder, options: ModelOptions) -> Path:
    """Return the best converted model of a folder that does not hold the original.

    Raises:
        ModelFolderError: no model, or models of several originals, fit the options.
    """
    where, weights = folder.root.absolute(), serving_weights(options)
    of_mode = _lone(folder, options)
    fitting = [entry for entry in of_mode if entry.weights in weights]
    if not of_mode:
        raise ModelFolderError(
            f"{where} holds a model converted for another TEXT_MODE than {options.text_mode}, "
            "and not the original: change TEXT_MODE, or put the original back"
        )
    if not fitting:
        raise ModelFolderError(
            f"{where} holds a model in int8, and neither float32 nor the original: unset "
            f"PRECISION={options.precision}, or put the original back"
        )
    if len({entry.identity.content for entry in fitting}) > 1:
        names = ", ".join(entry.path.name for entry in fitting)
        raise ModelFolderError(
            f"{where} holds several converted models and no original: let MODELS_DIR name one of "
            f"{names} in {CONVERSIONS}/"
        )
    best = min(fitting, key=lambda entry: (-entry.identity.recipe, weights.index(entry.weights)))
    return best.path


def _lone(folder: ModelFolder, options: ModelOptions) -> list[ConversionEntry]:
    """Return the converted models of a folder without the original, for this text mode."""
    every = map(ConversionEntry.read, lone_conversions(folder.root))
    return [entry for entry in every if options.text_mode in entry.identity.text_modes]


def _all(folder: ModelFolder, options: ModelOptions) -> Iterator[ConversionEntry]:
    """Yield the cache entries of this family and preprocessing version."""
    cache, own = cache_folder(folder, options), folder.root / CONVERSIONS
    # A container image may hold a converted model that is not in RUNTIME_CACHE_DIR.
    places = [cache] if cache.resolve() == own.resolve() else [cache, own]
    recipe = PREPROCESSING_VERSIONS[folder.family]
    for entry in chain.from_iterable(map(entries_in, places)):
        if (entry.identity.family, entry.identity.recipe) == (folder.family, recipe):
            yield entry


def entries_in(place: Path) -> Iterator[ConversionEntry]:
    """Yield the cache entries in a folder; failures of another version of the code are left out."""
    yield from map(ConversionEntry.read, conversions(place))
    for path in FailedConversion.all_in(place):
        failed = FailedConversion.read(path)
        if failed.code == fingerprint.digest_code():
            yield ConversionEntry(path, failed.identity, reason=failed.reason)
