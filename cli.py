"""The command line of `python app.py`: `--help` prints the settings, `--check` checks the model.

Settings come from the environment alone, so that a container and a shell start alike.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import NoReturn

from backends.check import faults
from backends.folder import ModelFolder, detect
from backends.text_folder import is_served_as_it_is
from config import VERSION, Settings, allowed_tokens, doubts, read
from errors import ConfigurationError, StartupError
from registry import kinds_by_name, settings_by_name
from vectorizer import check_image_formats, check_shared_cache
from web.endpoints import ENDPOINTS
from web.models import choose_defaults

_WIDTH = 96
_STORE_S = 5.0  # maximum wait for each answer of the store; no request waits for it


def wants_check(arguments: Sequence[str] | None = None) -> bool:
    """Read the command line, and return whether it has `--check`.

    `--help` and `--version` print a text and exit with 0. `--vector-cache` shows or empties the
    store, and exits. An unknown argument exits with 2.
    """
    form = argparse.ArgumentParser(
        prog="app.py",
        description="Serve the model in MODELS_DIR. Environment variables set everything:",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form.add_argument(
        "--check",
        action="store_true",
        help="load and serve nothing: check the settings, the model folder, its "
        "tokenizers, and the names and shapes of its weights; exit with 0, or with 1 and "
        "the faults",
    )
    form.add_argument(
        "--vector-cache",
        choices=("show", "empty"),
        help="tell what is kept in the store of VECTOR_CACHE_URL, or delete it, while services use "
        "it or not; nothing else in a Redis is touched",
    )
    form.add_argument("--version", action="version", version=VERSION)
    options = form.parse_args(arguments)
    if options.vector_cache:
        vector_cache(empties=options.vector_cache == "empty")
    asked: bool = options.check
    return asked


def _settings() -> str:
    """Return all variables with their defaults, and below each its description in plain text."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = str(default).lower() if isinstance(default, bool) else default
        lines.append(f"{name.upper()}{'' if shown in (None, '') else f'={shown}'}")
        plain = re.sub(r"\[(.+?)\]\(.+?\)|`(.+?)`", r"\1\2", field.description or "")
        lines += textwrap.wrap(plain, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def check() -> NoReturn:
    """Check settings and model folder, print all faults, and exit with 0 (no faults) or 1."""
    for doubt in doubts():
        print(f"Warning: {doubt}", file=sys.stderr)
    wrong: list[str] = []
    try:
        settings = read(Settings)
        check_image_formats(settings)
        check_shared_cache(settings)
        allowed_tokens(settings)
        by_name = settings_by_name(settings)
        for own in by_name.values():
            folder = detect(own.models_dir)
            found = [*_runtime_faults(own, folder), *faults(folder)]
            wrong += found
            if not found:
                where = f"the {folder.family} model in {folder.root.absolute()}"
                print(f"OK: the settings, and {where}")
        if not wrong:
            choose_defaults(kinds_by_name(by_name), ENDPOINTS, settings)
    except StartupError as error:
        wrong.append(str(error))
    for sentence in wrong:
        print(f"Cannot start: {sentence}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def vector_cache(*, empties: bool) -> NoReturn:
    """Print the usage of the vector store, after emptying it if `empties`; then exit.

    The exit status is 0, or 1 with an error message.
    """
    try:
        settings = read(Settings)
        if not settings.vector_cache_url:
            sys.exit("VECTOR_CACHE_URL: not set: vectors are cached in memory only")
        from inference.store.base import StoreError
        from inference.store.connect import make_store, parse_address

        address = parse_address(settings.vector_cache_url.get_secret_value())
        try:
            store = make_store(address, settings.vector_cache_max_bytes, _STORE_S)
            store.open()
            deleted = store.empty() if empties else 0
            count, nbytes = store.count(), store.usage().nbytes
            store.close()
        except StoreError as error:
            sys.exit(f"{address.shown}: {error}")
    except ConfigurationError as error:  # its message begins with the name of the setting
        sys.exit(str(error))
    if empties:
        print(f"{address.shown}: {deleted:,} vectors deleted")
    whose = "" if address.folder else " in the whole server"
    print(f"{address.shown}: {count:,} vectors, {nbytes / 1e6:,.1f} MB{whose}")
    sys.exit(0)


def _runtime_faults(settings: Settings, folder: ModelFolder) -> Iterator[str]:
    wanting = "ENABLE_CUDA=1" if settings.enable_cuda else f"RUNTIME={settings.runtime}"
    if is_served_as_it_is(folder) or wanting == "RUNTIME=openvino":
        return
    if folder.family == "converted":
        yield f"{wanting} needs the original, and {folder.root.absolute()} holds a converted model"
    if find_spec("torch") is None:
        yield f"{wanting} needs torch, which is not installed"
