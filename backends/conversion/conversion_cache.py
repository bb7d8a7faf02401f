"""Converts a model that the conversion cache lacks, in a separate process.

The conversion runs in a separate process, as otherwise torch and the weights would stay in the
server's memory. That process runs the parity check (see `job.py`); only then does the entry get its
name. Another process (`backends/quantization/job.py`) quantizes the float32 entry to int8.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from backends.atomic_install import install, replace_aside, staging
from backends.conversion import fingerprint
from backends.conversion.description import Description
from backends.conversion.entries import (
    ConversionEntry,
    cache_folder,
    entries_in,
    find,
    find_lone,
    known_content,
    record_stamps,
    serving_weights,
)
from backends.folder import ModelFolder, conversions
from backends.identity import Identity
from backends.jobs import JobError, JobKilledError, JobRefusedError, run_in_subprocess
from backends.model import ModelOptions, Weights
from errors import ConversionError, DownloadError, ModelFolderError, describe_error

logger = logging.getLogger(__name__)

_CONVERT, _QUANTIZE = "backends.conversion.job", "backends.quantization.job"
_TIMEOUT_S = 540  # all jobs at one startup together; deploy/kubernetes allows ten minutes
_MAX_TRIES = 2
_WRITTEN: Sequence[Weights] = ("int8",)


def converted(folder: ModelFolder, options: ModelOptions, *, written: bool = False) -> Path:
    """Return the folder of the converted model; convert the model first if it is not in the cache.

    Args:
        folder: the model folder.
        options: the loading options; a model converted in float32 serves any precision.
        written: whether int8 weights are written to the cache if the precision is int8. The
            service quantizes in memory instead.

    Raises:
        ConversionError: the model cannot be converted, or `options.converts` is False, or the
            cache cannot be written. The torch runtime may still serve the model.
        ModelFolderError: the conversion needs torch, which is not installed; or the folder holds
            converted models only, and no model fits the options; or its content cannot be loaded.
    """
    if folder.family == "converted":
        return find_lone(folder, options)
    cache = cache_folder(folder, options)
    weights = _WRITTEN if written and options.precision == "int8" else serving_weights(options)
    try:
        entry = find(folder, options, weights) or _make(folder, options, weights)
    except (ConversionError, ModelFolderError):
        raise
    except Exception as error:  # any failure: torch can serve the model
        raise ConversionError(f"{cache.absolute()}: {describe_error(error)}") from error
    if entry.reason is not None:
        raise ConversionError(entry.reason)
    return entry.path


def _make(
    folder: ModelFolder, options: ModelOptions, weights: Sequence[Weights]
) -> ConversionEntry:
    cache = cache_folder(folder, options)
    if not options.converts:
        _check_torch(folder)
        raise ConversionError(
            f"the model in {folder.root.absolute()} is not converted, and no request waits for a "
            "conversion: it failed after the start, as the log says, or files changed since. Start "
            "the service anew to try again, or convert it at build time"
        )
    try:
        with staging(cache, wait=True) as scratch:
            # Another process may have converted the model in the meantime.
            return find(folder, options, weights) or _make_in(scratch, folder, options)
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
    exact = find(folder, options, ("float32",)) if options.precision == "int8" else None
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
    cache = cache_folder(folder, options)
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
    content = known_content(folder, options)
    target = scratch / "made"
    mark = f"{folder.family}-{options.text_mode}-{content[:16]}.tries"
    with _tried(cache_folder(folder, options) / mark):
        _convert(folder, options, content, target)
    record_stamps(target, stamps)
    return next(entries_in(scratch))


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
    return ConversionEntry.read(target)


def _note_failure(path: Path, why: str) -> None:
    """Record in the float32 entry why int8 failed; the service reads it if PRECISION is unset."""
    description = Description.read(path)
    if description.refused != why:
        with suppress(OSError):  # the model serves without this note
            replace(description, refused=why).write(path)


def _delete_older(cache: Path, made: Identity, scratch: Path) -> None:
    """Delete entries of the same model with an older preprocessing version."""
    for other in map(ConversionEntry.read, conversions(cache)):
        identity = other.identity
        same = (identity.family, identity.content) == (made.family, made.content)
        if same and identity.recipe < made.recipe and set(identity.text_modes) & {*made.text_modes}:
            logger.info("Deleting the conversion of an older version: %s", other.path.absolute())
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
            f"{tries} conversions were killed, perhaps as memory ran out: a conversion takes four "
            f"times the size of the weights. Delete {mark.absolute()} to try again"
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
