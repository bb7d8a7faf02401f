"""The conversion cache: finds a converted model, or converts the model in a separate process.

    cache_dir/<family>-<text modes>-<recipe>-<content>[-int8]/     see `description.py`

The key of a cache entry is the identity of the model: the content of the original, the version of
the preprocessing, and the text modes that the model serves. Versions of this code and of libraries
are not part of the key. The conversion runs in a separate process, as otherwise torch and the
weights would stay in the server's memory. That process runs the parity check (see `job.py`); only
then does the entry get its name. Another process (`backends/quantization/job.py`) quantizes the
float32 entry to int8.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from backends.atomic_install import install, replace_aside, staging
from backends.conversion import fingerprint
from backends.conversion.description import Description, FailedConversion
from backends.folder import CONVERSIONS, ModelFolder, conversions, lone_conversions
from backends.identity import PREPROCESSING_VERSIONS, Identity
from backends.jobs import JobError, JobKilledError, JobRefusedError, run_in_subprocess
from backends.model import ModelOptions, Precision, Weights
from errors import ConversionError, DownloadError, ModelFolderError, describe_error

logger = logging.getLogger(__name__)

_SOURCE = "source.json"
_CONVERT, _QUANTIZE = "backends.conversion.job", "backends.quantization.job"
_TIMEOUT_S = 540  # all jobs at one startup together; deploy/kubernetes allows ten minutes
_MAX_TRIES = 2
# For each requested precision, the stored weight types that can serve it, the best first. Other
# precisions are computed from float32 weights.
_SERVING: Mapping[Precision | None, Sequence[Weights]] = {
    None: ("float32", "int8"),
    "int8": ("int8", "float32"),
}
_WRITTEN: Sequence[Weights] = ("int8",)
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
        is_own = self.path.parent == folder.root / CONVERSIONS
        return fingerprint.same_files(recorded, stamps, is_own=is_own)


def converted(folder: ModelFolder, options: ModelOptions, *, written: bool = False) -> Path:
    """Return the folder of the converted model; convert the model first if it is not in the cache.

    Args:
        folder: the model folder.
        options: the loading options; a model converted in float32 serves any precision.
        written: whether int8 weights are written to the cache if the precision is int8. The
            service quantizes in memory instead.

    Raises:
        ConversionError: the model cannot be converted, or may not be now; or the cache cannot be
            written. The torch runtime may still serve the model.
        ModelFolderError: the conversion needs torch, which is not installed; or the folder holds
            converted models only, and no model fits the options; or its content cannot be loaded.
    """
    if folder.family == "converted":
        return _only_one(folder, options)
    cache = _cache_folder(folder, options)
    weights = _WRITTEN if written and options.precision == "int8" else _serving(options)
    try:
        entry = _find(folder, options, weights) or _make(folder, options, weights)
    except (ConversionError, ModelFolderError):
        raise
    except Exception as error:  # any failure: torch can serve the model
        raise ConversionError(f"{cache.absolute()}: {describe_error(error)}") from error
    if entry.reason is not None:
        raise ConversionError(entry.reason)
    return entry.path


def is_converted(folder: ModelFolder, options: ModelOptions) -> bool:
    """Return whether a model is in the cache, or a record that it cannot be converted."""
    if folder.family == "converted":
        return True
    return _find(folder, options, _serving(options)) is not None


def digest_content(folder: ModelFolder, options: ModelOptions) -> str:
    """Return the digest of a model's files; read them only if their stamps are not known."""
    stamps = fingerprint.stamps(folder)
    known = (e.identity.content for e in _all(folder, options) if e.is_of(folder, stamps))
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
        return any(entry.weights == "float32" for entry in _alone(folder, options))
    return find_spec("torch") is not None or _find(folder, options, ("float32",)) is not None


def _only_one(folder: ModelFolder, options: ModelOptions) -> Path:
    where, weights = folder.root.absolute(), _serving(options)
    of_mode = _alone(folder, options)
    fitting = [entry for entry in of_mode if entry.weights in weights]
    if not of_mode:
        raise ModelFolderError(
            f"{where} holds a model converted for another TEXT_MODE than {options.text_mode}, "
            "and not the original: set the other, or bring the original back"
        )
    if not fitting:
        raise ModelFolderError(
            f"{where} holds a model in int8, and neither float32 nor the original: unset "
            f"PRECISION={options.precision}, or bring the original back"
        )
    if len({entry.identity.content for entry in fitting}) > 1:
        names = ", ".join(entry.path.name for entry in fitting)
        raise ModelFolderError(
            f"{where} holds several converted models and no original: let MODELS_DIR name one of "
            f"{names} in {CONVERSIONS}/"
        )
    fitting.sort(key=lambda entry: (-entry.identity.recipe, weights.index(entry.weights)))
    return fitting[0].path


def _alone(folder: ModelFolder, options: ModelOptions) -> list[ConversionEntry]:
    """Return the converted models of a folder without the original, for this text mode."""
    every = map(_read_entry, lone_conversions(folder.root))
    return [entry for entry in every if options.text_mode in entry.identity.text_modes]


def _serving(options: ModelOptions) -> Sequence[Weights]:
    return _SERVING.get(options.precision, ("float32",))


def _cache_folder(folder: ModelFolder, options: ModelOptions) -> Path:
    return options.cache_dir or folder.root / CONVERSIONS


def _all(folder: ModelFolder, options: ModelOptions) -> Iterator[ConversionEntry]:
    """Yield the cache entries of this family and preprocessing version, failed conversions last."""
    # A container image may hold a converted model that is not in RUNTIME_CACHE_DIR.
    places = dict.fromkeys((_cache_folder(folder, options), folder.root / CONVERSIONS))
    recipe = PREPROCESSING_VERSIONS[folder.family]
    for entry in chain(*map(_converted_in, places), *map(_failed_in, places)):
        if (entry.identity.family, entry.identity.recipe) == (folder.family, recipe):
            yield entry


def _converted_in(place: Path) -> Iterator[ConversionEntry]:
    return map(_read_entry, conversions(place))


def _read_entry(path: Path) -> ConversionEntry:
    description = Description.read(path)
    return ConversionEntry(path, description.identity, description.weights)


def _failed_in(place: Path) -> Iterator[ConversionEntry]:
    for path in FailedConversion.all_in(place):
        failed = FailedConversion.read(path)
        if failed.code == fingerprint.digest_code():
            yield ConversionEntry(path, failed.identity, reason=failed.reason)


def _find(
    folder: ModelFolder, options: ModelOptions, weights: Sequence[Weights]
) -> ConversionEntry | None:
    mode = options.text_mode
    fitting = [
        entry
        for entry in _all(folder, options)
        if mode in entry.identity.text_modes and entry.weights in weights
    ]
    fitting.sort(key=lambda entry: (entry.reason is not None, weights.index(entry.weights)))
    if not fitting:
        return None
    content = digest_content(folder, options)
    return next((entry for entry in fitting if entry.identity.content == content), None)


def _make(
    folder: ModelFolder, options: ModelOptions, weights: Sequence[Weights]
) -> ConversionEntry:
    cache = _cache_folder(folder, options)
    if not options.converts:
        _check_torch(folder)
        raise ConversionError(
            f"the model in {folder.root.absolute()} is not converted, and no request waits for a "
            "conversion: the log says why it failed after the start. Start the service anew to try "
            "again, or convert it at build time"
        )
    try:
        with staging(cache, wait=True) as scratch:
            # Another process may have converted the model in the meantime.
            return _find(folder, options, weights) or _make_in(scratch, folder, options)
    except DownloadError as error:
        raise ConversionError(
            f"{error}. Let RUNTIME_CACHE_DIR name a folder that can be written, "
            "or convert at build time with download.py"
        ) from error
    except JobRefusedError as error:
        raise ModelFolderError(str(error)) from error
    except JobError as error:
        raise ConversionError(str(error)) from error


def _make_in(scratch: Path, folder: ModelFolder, options: ModelOptions) -> ConversionEntry:
    ends_s = time.monotonic() + _TIMEOUT_S
    exact = _find(folder, options, ("float32",)) if options.precision == "int8" else None
    made = exact or _convert_in(scratch, folder, options)
    if options.precision == "int8" and made.reason is None:
        made = _quantize_in(made, scratch, ends_s - time.monotonic())
    if made is exact:
        return made
    identity, modes = made.identity, "-".join(sorted(made.identity.text_modes))
    # The name is for people: the service reads `model.json`.
    name = f"{identity.family}-{modes}-{identity.recipe}-{identity.content[:16]}"
    if made.weights != "float32":
        name = f"{name}-{made.weights}"
    cache = _cache_folder(folder, options)
    made.path.rename(scratch / name)
    install(scratch, cache, [name])
    if made.reason is None:
        _delete_older(cache, identity, scratch)
    return made._replace(path=cache / name)


def _check_torch(folder: ModelFolder) -> None:
    if find_spec("torch") is None:
        raise ModelFolderError(
            f"The {folder.family} model in {folder.root.absolute()} is not converted for OpenVINO, "
            "and torch, which would do that, is not installed: run download.py --convert in the "
            "custom image, or install requirements.txt"
        )


def _convert_in(scratch: Path, folder: ModelFolder, options: ModelOptions) -> ConversionEntry:
    _check_torch(folder)
    stamps = fingerprint.stamps(folder)  # before the content, which may change meanwhile
    content = digest_content(folder, options)
    target = scratch / "made"
    mark = f"{folder.family}-{options.text_mode}-{content[:16]}.tries"
    with _tried(_cache_folder(folder, options) / mark):
        _convert(folder, options, content, target)
    (target / _SOURCE).write_text(json.dumps(stamps), "utf-8")
    return next(chain(_converted_in(scratch), _failed_in(scratch)))


def _quantize_in(exact: ConversionEntry, scratch: Path, timeout_s: float) -> ConversionEntry:
    """Quantize an entry to int8; return the float32 entry if the quantization check fails."""
    target = scratch / "quantized"
    job = {"source": str(exact.path.absolute()), "target": str(target.absolute())}
    try:
        answer = run_in_subprocess(
            _QUANTIZE, job, called="the quantization to int8", timeout_s=timeout_s
        )
    except JobError as error:
        logger.warning("PRECISION=int8: %s, so the model is kept in float32", error)
        _note_failure(exact.path, str(error))
        return exact
    logger.info("Quantized to int8: %s", answer["drift"])
    _note_failure(exact.path, "")
    return _read_entry(target)


def _note_failure(path: Path, why: str) -> None:
    """Record in the float32 entry why int8 failed; the service reads it if PRECISION is unset."""
    description = Description.read(path)
    if description.refused != why:
        with suppress(OSError):  # the model serves without this note
            replace(description, refused=why).write(path)


def _delete_older(cache: Path, made: Identity, scratch: Path) -> None:
    """Delete entries of the same model with an older preprocessing version."""
    for other in list(_converted_in(cache)):
        identity = other.identity
        same = (identity.family, identity.content) == (made.family, made.content)
        if same and identity.recipe < made.recipe and set(identity.text_modes) & {*made.text_modes}:
            logger.info("Deleting what an older version converted: %s", other.path.absolute())
            with suppress(OSError):  # a leftover does no harm
                replace_aside(other.path, scratch / other.path.name)


@contextmanager
def _tried(mark: Path) -> Iterator[None]:
    """Count conversions that were killed or timed out, and refuse to convert after too many.

    The kernel may kill this process or the conversion job if memory runs out.

    Raises:
        ConversionError: too many conversions were killed.
    """
    tries = int(mark.read_text() or 0) if mark.is_file() else 0
    if tries >= _MAX_TRIES:
        raise ConversionError(
            f"{tries} conversions were killed, perhaps for want of memory: one takes four times "
            f"the size of the weights. Delete {mark.absolute()} to try again"
        )
    mark.write_text(str(tries + 1))
    try:
        yield
    except JobKilledError:
        raise
    except BaseException:  # includes a signal to stop, which does not count
        mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


def _convert(folder: ModelFolder, options: ModelOptions, content: str, target: Path) -> None:
    logger.info("Converting the model for OpenVINO, once; about half a minute for half a gigabyte")
    started_s = time.perf_counter()
    job = {
        "root": str(folder.root.absolute()),
        "target": str(target.absolute()),
        "text_mode": options.text_mode,
        "trust": options.trust_remote_code,
        "content": content,
    }
    run_in_subprocess(_CONVERT, job, called="the conversion", timeout_s=_TIMEOUT_S)
    logger.info("Converted in %.1f s", time.perf_counter() - started_s)
