"""Converts the models of the tests: `python -m tests.conversions`, as `make test` does.

A start converts a model in a process of its own, which imports torch for longer than such a small
model takes. Here it is imported once, and a process for each core converts. A test that runs
without this converts what it needs, and tests of conversions convert anew in folders of their own.
"""

import logging
import multiprocessing
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import sentence_transformers  # noqa: F401 - it imports most of what the processes will need
import torch

from backends.conversion import conversion_cache, entries
from backends.conversion import job as conversion
from backends.folder import detect
from backends.jobs import Answer, run_in_subprocess
from backends.load import options_for
from bench.trained import trained_encoder
from config import Settings
from machine import usable_cores
from tests.golden_cases import GOLDEN, LAYOUTS, MODES
from tests.golden_rerankers import GOLDEN_RERANKERS, RERANKERS
from tests.golden_texts import GOLDEN_TEXTS, NETWORKS
from tests.service import CONVERTED


def convert_here(module: str, job: dict[str, Any], **options: Any) -> Answer:
    """Convert in this process, in place of `run_in_subprocess`, which runs other jobs."""
    if module != conversion_cache._CONVERT:
        return run_in_subprocess(module, job, **options)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries write pages of them
            return conversion.convert(conversion.ConvertJob(**job))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def folders(scratch: Path) -> Iterator[Path]:
    """The trained encoder's folder, which takes longest, and those of all golden models."""
    yield trained_encoder(scratch)
    for root, names in (
        (GOLDEN, LAYOUTS),
        (GOLDEN_TEXTS, NETWORKS),
        (GOLDEN_RERANKERS, RERANKERS),
    ):
        yield from (root / name for name in names)


def convert(path: Path) -> int:
    """Convert a model for both text modes; return how many conversions were not there yet."""
    folder, made = detect(path), 0
    for mode in MODES:
        settings = Settings(runtime="openvino", text_mode=mode, runtime_cache_dir=CONVERTED)
        options = options_for(folder, settings)
        if entries.find(folder, options, ("float32",)):
            continue
        # In a cache of its own: a conversion keeps others out of the cache that it writes to.
        with TemporaryDirectory(dir=CONVERTED) as own:
            cached = conversion_cache.converted(folder, replace(options, cache_dir=Path(own)))
            cached.rename(CONVERTED / cached.name)
        made += 1
    return made


def main() -> None:
    logging.disable(logging.WARNING)
    started_s = time.perf_counter()
    CONVERTED.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # of each process
    with (
        mock.patch.object(conversion_cache, "run_in_subprocess", convert_here),
        multiprocessing.get_context("fork").Pool(usable_cores()) as pool,
        TemporaryDirectory() as scratch,
    ):
        made = sum(pool.imap_unordered(convert, folders(Path(scratch))))
    print(f"{made} models are converted, in {time.perf_counter() - started_s:.0f} s")


if __name__ == "__main__":
    main()
