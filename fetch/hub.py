"""The hub: the files of a model -> a folder; every way in which that fails -> one sentence.

It knows no families: which of a repository's files are wanted is the caller's business.

See https://huggingface.co/docs/huggingface_hub/guides/download. That library reads HF_ENDPOINT
and HF_TOKEN by itself; it sends the token, and writes it nowhere.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from errors import DownloadError, describe_error, disk_fault, error_chain

logger = logging.getLogger(__name__)

Choose: TypeAlias = Callable[[Sequence[str]], list[str]]  # of a repository's files, those wanted

_SMALL_FILES = ("*.json", "*.txt", "*.model")  # configurations, tokenizers, vocabularies
# By preference, in each folder; a pickle can run code when it is loaded, a safetensors cannot.
_WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)
_OTHER_FORMATS = {"onnx", "openvino", "coreml"}  # folders with the same weights once more
_FOREIGN_CODE = re.compile(r'"([\w.-]+/[\w.-]+)--[\w.]+"')  # "org/name--module.Class" in a config


@dataclass(frozen=True)
class Wanted:
    """A model as somebody named it.

    Attributes:
        name: its name on the hub, or the path of a folder.
        variable: the environment variable that named it.
        revision: branch, tag or commit; None is the hub's default.
        organisation: to be tried first, where the name has none.
    """

    name: str
    variable: str
    revision: str | None = None
    organisation: str | None = None

    @property
    def full_names(self) -> list[str]:
        """The names to ask the hub for, in this order."""
        short = self.organisation and "/" not in self.name
        return [f"{self.organisation}/{self.name}", self.name] if short else [self.name]


@dataclass(frozen=True)
class Snapshot:
    """The files of a model at one commit, on disk."""

    name: str
    commit: str
    path: Path


def small_files(files: Sequence[str]) -> list[str]:
    """Choose configurations and tokenizers, and no weights."""
    return [
        file
        for file in files
        if any(fnmatch(PurePosixPath(file).name, pattern) for pattern in _SMALL_FILES)
        and not _OTHER_FORMATS & set(PurePosixPath(file).parts)
    ]


def model_files(files: Sequence[str]) -> list[str]:
    """Choose all that transformers or sentence-transformers need; no pickle where it can be.

    Raises:
        DownloadError: there are no weights.
    """
    # Only sentence-transformers, whose modules.json says so, keeps weights in folders.
    folders = {str(PurePosixPath(file).parent) for file in files} - _OTHER_FORMATS
    wanted = sorted(folders) if "modules.json" in files else ["."]
    weights = [file for folder in wanted for file in _weights_in(folder, files)]
    if not weights:
        raise DownloadError("has neither a model.safetensors nor a pytorch_model.bin")
    return small_files(files) + weights


def with_code(choose: Choose) -> Choose:
    """Choose the repository's Python files too."""
    return lambda files: choose(files) + [file for file in files if file.endswith(".py")]


def _weights_in(folder: str, files: Sequence[str]) -> list[str]:
    beside = [file for file in files if str(PurePosixPath(file).parent) == folder]
    for patterns in _WEIGHTS:
        if found := [f for f in beside if any(fnmatch(PurePosixPath(f).name, p) for p in patterns)]:
            return found
    return []


class Hub:
    """Fetches models into one cache, and remembers the commit of each."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.commits: dict[str, str] = {}

    def fetch(self, wanted: Wanted, choose: Choose) -> Snapshot:
        """Bring the chosen files to disk; a path stands for the folder that is there.

        Raises:
            DownloadError: the hub has no such model, will not give it, or cannot be reached.
        """
        if Path(wanted.name).is_dir():
            return Snapshot(wanted.name, "local", Path(wanted.name))
        try:
            return self._fetch(wanted, choose)
        except DownloadError as error:
            raise DownloadError(f"{wanted.name} ({wanted.variable}) {error}") from error
        except Exception as error:
            raise DownloadError(_explain(error, wanted)) from error

    def fetch_code_of(self, snapshot: Snapshot) -> None:
        """Fetch the Python files that a model borrows from other models."""
        configs = "".join(path.read_text("utf-8") for path in snapshot.path.rglob("*.json"))
        for name in sorted(set(_FOREIGN_CODE.findall(configs))):
            self.fetch(Wanted(name, f"code of {snapshot.name}"), with_code(small_files))

    def _fetch(self, wanted: Wanted, choose: Choose) -> Snapshot:
        from huggingface_hub import snapshot_download

        name, info = _look_up(wanted)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings}
        files = choose(list(sizes))
        self._check_space(sum(sizes[file] for file in files))
        path = snapshot_download(
            name,
            revision=info.sha,
            cache_dir=self.cache,
            allow_patterns=[escape(file) for file in files],
        )
        # Where offline look-ups by name begin; the library writes it for branches only.
        ref = Path(path).parent.parent / "refs" / "main"
        ref.parent.mkdir(exist_ok=True)
        ref.write_text(info.sha)
        self.commits[name] = info.sha
        return Snapshot(name, info.sha, Path(path))

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.cache.parent).free
        logger.info("%.1f MB to fetch, %.1f MB free", needed / 1e6, free / 1e6)
        if needed > free:
            raise DownloadError(
                f"does not fit, the disk is full: {needed / 1e6:.1f} MB are needed, "
                f"{free / 1e6:.1f} MB are free"
            )


def _look_up(wanted: Wanted) -> tuple[str, Any]:
    """Ask the hub for a model; return the name under which it is known, and what it says."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    *others, last = wanted.full_names
    for name in others:
        try:
            return name, HfApi().model_info(name, revision=wanted.revision, files_metadata=True)
        except RepositoryNotFoundError:
            logger.debug("The hub does not know %s", name)
    return last, HfApi().model_info(last, revision=wanted.revision, files_metadata=True)


def as_hub_cache(snapshot: Snapshot, files: Sequence[str], into: Path) -> None:
    """Put files of a snapshot into a hub cache of plain files; weights are moved, not copied."""
    repository = into / f"models--{snapshot.name.replace('/', '--')}"
    ref = repository / "refs" / "main"
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(snapshot.commit)
    for file in files:
        source = snapshot.path / file
        target = repository / "snapshots" / snapshot.commit / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and not small_files([file]):
            source.resolve().rename(target)  # out of the cache's blobs, which go afterwards
        else:
            shutil.copyfile(source, target)


def _explain(error: Exception, wanted: Wanted) -> str:
    import httpx2
    from huggingface_hub import errors

    named = f"{wanted.name} ({wanted.variable})"
    # The first that fits; a class stands before those that it inherits from.
    sentences: list[tuple[type[BaseException], str]] = [
        (
            errors.GatedRepoError,
            f"{named} is gated: accept its terms at https://huggingface.co/{wanted.name}, and "
            "set HF_TOKEN to a token of the account that did",
        ),
        (
            errors.RepositoryNotFoundError,
            f"the hub knows no model {named}; if it is a private one, set HF_TOKEN",
        ),
        (errors.RevisionNotFoundError, f"{named} has no revision {wanted.revision} on the hub"),
        (errors.HFValidationError, f"{named} cannot be a model's name on the hub"),
        (
            errors.OfflineModeIsEnabled,
            f"{named} cannot be fetched while HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set",
        ),
    ]
    for kind, sentence in sentences:
        if any(isinstance(link, kind) for link in error_chain(error)):
            return sentence
    if fault := disk_fault(error):
        return f"{named} could not be fetched: {fault}"
    if status := next(filter(None, map(_status_of, error_chain(error))), None):
        return f"{named} could not be fetched: {_STATUS.get(status, f'the hub answered {status}')}"
    reason = describe_error(error)
    if any(isinstance(e, httpx2.TransportError | ConnectionError) for e in error_chain(error)):
        return f"{named} could not be fetched: no network, the hub cannot be reached ({reason})"
    return f"{named} could not be fetched: {reason}"


_STATUS = {
    401: "the hub refuses the token in HF_TOKEN (401)",
    403: "the token in HF_TOKEN may not read it (403)",
    429: "the hub asks for fewer requests (429); set HF_TOKEN, or try again later",
}


def _status_of(error: BaseException) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status
