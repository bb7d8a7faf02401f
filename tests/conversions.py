"""Converts the golden models for the tests: `python -m tests.conversions`, as `make test` does.

A start converts a model in a process of its own, which imports torch for longer than such a small
model takes. Here all are converted in one process. A test that runs without this converts what it
needs, and tests of conversions convert anew in folders of their own.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from backends.conversion import conversion_cache
from backends.conversion.job import Job, do
from backends.folder import detect
from backends.jobs import Answer
from backends.load import options_for
from config import Settings
from tests.golden_cases import GOLDEN, LAYOUTS, MODES
from tests.golden_rerankers import GOLDEN_RERANKERS, RERANKERS
from tests.golden_texts import GOLDEN_TEXTS, NETWORKS
from tests.service import CONVERTED


def convert_here(_module: str, job: dict[str, Any], **_: object) -> Answer:
    """Do in this process the job of another, in the place of `store.run_in_subprocess`."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries write pages of them
            return do(Job(**job))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def asked_for() -> Iterator[tuple[Path, Settings]]:
    for mode in MODES:
        settings = Settings(runtime="openvino", text_mode=mode, runtime_cache_dir=CONVERTED)
        for name in LAYOUTS:
            yield GOLDEN / name, settings
        for name in NETWORKS:
            yield GOLDEN_TEXTS / name, settings
        for name in RERANKERS:
            yield GOLDEN_RERANKERS / name, settings


def main() -> None:
    logging.disable(logging.WARNING)
    started_s, made = time.perf_counter(), 0
    with mock.patch.object(conversion_cache, "run_in_subprocess", convert_here):
        for path, settings in asked_for():
            folder = detect(path)
            conversion_cache.converted(folder, options_for(folder, settings))
            made += 1
    print(f"{made} golden models are converted, in {time.perf_counter() - started_s:.0f} s")


if __name__ == "__main__":
    main()
