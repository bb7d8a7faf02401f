"""Downloads a model's files from the hub, and turns errors into messages for the operator.

This module does not depend on model families: the caller chooses the files of a repository.

See https://huggingface.co/docs/huggingface_hub/guides/download. The library huggingface_hub reads
HF_ENDPOINT and HF_TOKEN by itself; it sends the token to the hub, and never writes it to a file.
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

from backends.hub_cache import repository_folder
from errors import DownloadError, describe_error, disk_fault, error_chain

logger = logging.getLogger(__name__)

Choose: TypeAlias = Callable[[Sequence[str]], list[str]]  # files of a repository -> files wanted

_SMALL_FILES = ("*.json", "*.txt", "*.model")  # configurations, tokenizers, vocabularies
# Weight files of a folder by preference: loading a pickle can run code, loading safetensors cannot.
_WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)
_OTHER_FORMATS = {"onnx", "openvino", "coreml"}  # folders with the same weights in other formats
_FOREIGN_CODE = re.compile(r'"([\w.-]+/[\w.-]+)--[\w.]+"')  # "org/name--module.Class" in a config


@dataclass(frozen=True)
class Wanted:
    """A model to download, as an environment variable names it.

    Attributes:
        name: the model's name on the hub, or the path of a local folder.
        variable: the environment variable that names it.
        revision: branch, tag or commit; None for the hub's default.
        organisation: the organisation to try first if `name` has no organisation.
    """

    name: str
    variable: str
    revision: str | None = None
    organisation: str | None = None

    @property
    def full_names(self) -> list[str]:
        """The names to look up on the hub, in order."""
        short = self.organisation and "/" not in self.name
        return [f"{self.organisation}/{self.name}", self.name] if short else [self.name]


@dataclass(frozen=True)
class Snapshot:
    """The files of a model at one commit, on disk."""

    name: str
    commit: str
    path: Path


def small_files(files: Sequence[str]) -> list[str]:
    """Choose the configuration and tokenizer files, without weights."""
    return [
        file
        for file in files
        if any(fnmatch(PurePosixPath(file).name, pattern) for pattern in _SMALL_FILES)
        and not _OTHER_FORMATS & set(PurePosixPath(file).parts)
    ]


def model_files(files: Sequence[str]) -> list[str]:
    """Choose the files of a model; prefer weights in safetensors to other formats.

    Raises:
        DownloadError: the repository has no weights.
    """
    # Only sentence-transformers (with modules.json) has weights in subfolders.
    folders = {str(PurePosixPath(file).parent) for file in files} - _OTHER_FORMATS
    wanted = sorted(folders) if "modules.json" in files else ["."]
    weights = [file for folder in wanted for file in _weights_in(folder, files)]
    if not weights:
        raise DownloadError("has neither a model.safetensors nor a pytorch_model.bin")
    return small_files(files) + weights


def with_code(choose: Choose) -> Choose:
    """Return a function that chooses the files of `choose`, and all Python files."""
    return lambda files: choose(files) + [file for file in files if file.endswith(".py")]


def _weights_in(folder: str, files: Sequence[str]) -> list[str]:
    beside = [file for file in files if str(PurePosixPath(file).parent) == folder]
    for patterns in _WEIGHTS:
        if found := [f for f in beside if any(fnmatch(PurePosixPath(f).name, p) for p in patterns)]:
            return found
    return []


class Hub:
    """Downloads models into a cache, and records the commit of each."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.commits: dict[str, str] = {}

    def fetch(self, wanted: Wanted, choose: Choose) -> Snapshot:
        """Download the files of a model that `choose` returns, or use a local folder's files.

        Raises:
            DownloadError: the model is unknown or not accessible, or the hub cannot be reached.
        """
        if Path(wanted.name).is_dir():
            return Snapshot(wanted.name, "local", Path(wanted.name))
        try:
            return self._fetch(wanted, choose)
        except DownloadError as error:
            raise DownloadError(f"{wanted.name} ({wanted.variable}) {error}") from error
        except Exception as error:
            raise DownloadError(_explain(error, wanted)) from error

    def fetch_borrowed_code(self, snapshot: Snapshot) -> None:
        """Download the Python files that a model's config takes from other repositories."""
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
        # Offline the library starts from this file, which it writes for branches only.
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
    """Look a model up on the hub; return its full name and the hub's information about it."""
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
    """Write files of a snapshot as a hub cache into a folder; move weights, copy other files."""
    repository = repository_folder(into, snapshot.name)
    ref = repository / "refs" / "main"
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(snapshot.commit)
    for file in files:
        source = snapshot.path / file
        target = repository / "snapshots" / snapshot.commit / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and not small_files([file]):
            source.resolve().rename(target)  # from the download cache, which is deleted later
        else:
            shutil.copyfile(source, target)


def _explain(error: Exception, wanted: Wanted) -> str:
    import httpx2
    from huggingface_hub import errors

    label = f"{wanted.name} ({wanted.variable})"
    # The first match is used, so subclasses come before their base class.
    messages: list[tuple[type[BaseException], str]] = [
        (
            errors.GatedRepoError,
            f"{label} is gated: accept its terms at https://huggingface.co/{wanted.name}, and "
            "set HF_TOKEN to a token of the account that did",
        ),
        (
            errors.RepositoryNotFoundError,
            f"the hub knows no model {label}; if it is a private one, set HF_TOKEN",
        ),
        (errors.RevisionNotFoundError, f"{label} has no revision {wanted.revision} on the hub"),
        (errors.HFValidationError, f"{label} cannot be a model's name on the hub"),
        (
            errors.OfflineModeIsEnabled,
            f"{label} cannot be fetched while HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set",
        ),
    ]
    for kind, message in messages:
        if any(isinstance(link, kind) for link in error_chain(error)):
            return message
    if fault := disk_fault(error):
        return f"{label} could not be fetched: {fault}"
    responses = (getattr(link, "response", None) for link in error_chain(error))
    statuses = (getattr(response, "status_code", None) for response in responses)
    if status := next(filter(None, statuses), None):
        return f"{label} could not be fetched: {_STATUS.get(status, f'the hub answered {status}')}"
    reason = describe_error(error)
    if any(isinstance(e, httpx2.TransportError | ConnectionError) for e in error_chain(error)):
        return f"{label} could not be fetched: no network, the hub cannot be reached ({reason})"
    return f"{label} could not be fetched: {reason}"


_STATUS = {
    401: "the hub refuses the token in HF_TOKEN (401)",
    403: "the token in HF_TOKEN may not read it (403)",
    429: "the hub asks for fewer requests (429); set HF_TOKEN, or try again later",
}
