"""A model converted for OpenVINO: found where it was kept, or made once, in a process of its own.

    cache_dir/<family>-<text mode>-<code>-<content>/
        model.json                  what is known of the model, and how its inputs are prepared
        tokenizer.json              the vocabulary (of SigLIP 1: spiece.model, special_tokens.json)
        text.xml, text.bin          the networks
        image.xml, image.bin
        source.json                 the sizes and times of the model's files

The name holds digests of what converts and of the model's files, so that a changed model is
converted anew, and by a new version, which deletes what the old one made. A process of its own, as
otherwise torch and the weights would stay in the server's memory; it proves what it has made (see
`backends/convert`) before that gets its name.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from backends.folder import ModelFolder
from backends.inputs.kinds import Described
from backends.jobs import JobError, JobKilledError, run_in_subprocess
from backends.model import Modality, ModelInfo, ModelOptions
from backends.openvino import fingerprint
from backends.staging import install, set_aside, staging
from errors import ConversionError, DownloadError, describe_error

logger = logging.getLogger(__name__)

FOLDER = "converted"  # the cache's name in a model folder
REFUSAL = "refusal.txt"  # in place of all that, for a model that no later try would convert either
_DESCRIPTION = "model.json"
_SOURCE = "source.json"
_CONVERT = "backends.convert.job"
_TIMEOUT_S = 540  # deploy/kubernetes gives a start ten minutes
_MOST_TRIES = 2


@dataclass(frozen=True)
class TowerDescription:
    """One tower of a converted model.

    Attributes:
        preparation: its kind, and the kind's parameters.
        network: the file of the network.
    """

    preparation: Described
    network: str


@dataclass(frozen=True)
class Description:
    """What a converted model's networks do not say."""

    info: ModelInfo
    towers: Mapping[Modality, TowerDescription]

    def write(self, folder: Path) -> None:
        """Write it into a converted model's folder."""
        (folder / _DESCRIPTION).write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read it from there."""
        parts: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text("utf-8"))
        towers = {name: TowerDescription(**tower) for name, tower in parts["towers"].items()}
        return cls(ModelInfo(**parts["info"]), cast("dict[Modality, TowerDescription]", towers))


def converted(folder: ModelFolder, options: ModelOptions) -> Path:
    """Return the folder of the converted model; where there is none yet, make it.

    Raises:
        ConversionError: it cannot be converted, or not be kept.
    """
    cache = options.cache_dir or folder.root / FOLDER
    try:
        return _unless_refused(_find_or_make(folder, options, cache))
    except ConversionError:
        raise
    except Exception as error:  # whatever it is, the model can be served without this
        raise ConversionError(f"{cache.absolute()}: {describe_error(error)}") from error


def _unless_refused(path: Path) -> Path:
    if (path / REFUSAL).is_file():
        raise ConversionError((path / REFUSAL).read_text("utf-8").strip())
    return path


def _find_or_make(folder: ModelFolder, options: ModelOptions, cache: Path) -> Path:
    # Only these families have two ways to read a text.
    mode = options.text_mode if folder.family in ("openai", "siglip") else "any"
    kind, code = f"{folder.family}-{mode}", fingerprint.of_code()[:8]
    places = (cache, folder.root / FOLDER)  # an image may bring what another cache does not hold
    if unchanged := _unchanged(folder, places, f"{kind}-{code}-*"):
        return unchanged
    content = fingerprint.of_content(folder)[:16]
    name = f"{kind}-{code}-{content}"
    for path in (place / name for place in places):
        if path.is_dir():
            return path
    _make(folder, options, cache / name, f"{kind}-*-{content}")
    return cache / name


def _unchanged(folder: ModelFolder, places: Iterable[Path], pattern: str) -> Path | None:
    stamps = fingerprint.stamps(folder)
    for source in (path for place in places for path in place.glob(f"{pattern}/{_SOURCE}")):
        if json.loads(source.read_text("utf-8")) == stamps:
            return source.parent
    return None


def _delete_others(path: Path, versions: str, scratch: Path) -> None:
    """Delete what other versions made of the same model, now that there is a better one."""
    if (path / REFUSAL).is_file():
        return
    for other in path.parent.glob(versions):
        if other != path:
            logger.info("Deleting what another version converted: %s", other.absolute())
            with suppress(OSError):  # it is in nobody's way
                set_aside(other, scratch / other.name)


def _make(folder: ModelFolder, options: ModelOptions, path: Path, versions: str) -> None:
    try:
        with staging(path.parent, wait=True) as scratch:
            if not path.is_dir():  # another start may have made it meanwhile
                stamps = json.dumps(fingerprint.stamps(folder))
                with _tried(path.with_suffix(".tries")):
                    _convert(folder, options, scratch / path.name)
                (scratch / path.name / _SOURCE).write_text(stamps, "utf-8")
                install(scratch, path.parent, [path.name])
                _delete_others(path, versions, scratch)
    except DownloadError as error:
        raise ConversionError(
            f"{error}. Let RUNTIME_CACHE_DIR name a folder that can be written, "
            "or convert at build time with download.py"
        ) from error
    except JobError as error:
        raise ConversionError(str(error)) from error


@contextmanager
def _tried(mark: Path) -> Iterator[None]:
    """Count tries that did not come to an end: a kill for want of memory may take us along.

    Raises:
        ConversionError: there were enough of them.
    """
    tries = int(mark.read_text() or 0) if mark.is_file() else 0
    if tries >= _MOST_TRIES:
        raise ConversionError(
            f"{tries} conversions were killed, perhaps for want of memory: one takes four times "
            f"the size of the weights. Delete {mark.absolute()} to try again"
        )
    mark.write_text(str(tries + 1))
    try:
        yield
    except JobKilledError:
        raise
    except BaseException:  # a signal to stop too: it says nothing of the conversion
        mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


def _convert(folder: ModelFolder, options: ModelOptions, target: Path) -> None:
    logger.info("Converting the model for OpenVINO, once; about half a minute for half a gigabyte")
    started_s = time.perf_counter()
    job = {
        "root": str(folder.root.absolute()),
        "target": str(target.absolute()),
        "text_mode": options.text_mode,
        "trust": options.trust_remote_code,
    }
    run_in_subprocess(_CONVERT, job, called="the conversion", timeout_s=_TIMEOUT_S)
    logger.info("Converted in %.1f s: %s", time.perf_counter() - started_s, target.name)
