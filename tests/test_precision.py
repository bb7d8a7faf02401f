"""Which precision is used, and the line of the log that says so."""

import logging

import pytest

from backends.folder import detect
from backends.load import load_replica
from backends.model import ModelOptions, Precision
from backends.precision import log_choice, usable
from tests.golden_cases import GOLDEN, RUNTIMES
from tests.service import CONVERTED

GPU: tuple[Precision, ...] = ("float32", "float16", "bfloat16")


def test_what_a_device_would_have_to_imitate_is_not_used() -> None:
    assert usable("bfloat16", ["float32"]) == "float32"
    assert usable("bfloat16", GPU) == "bfloat16"
    assert usable("float32", GPU) == "float32"


@pytest.mark.parametrize(
    ("wanted", "supported", "line"),
    [
        ("float32", ("float32",), "Computing in float32; it has no instructions for less"),
        ("float32", GPU, "it also has instructions for float16 and bfloat16: PRECISION=float16"),
        ("bfloat16", GPU, "Computing in bfloat16; PRECISION=float32 gives the reference's"),
        ("float16", ("float32", "bfloat16"), "PRECISION=float16: it has no instructions for it"),
    ],
)
def test_the_log_says_what_there_is_and_what_is_used(
    wanted: Precision,
    supported: tuple[Precision, ...],
    line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        log_choice("it", wanted, supported)

    (record,) = caplog.records
    assert line in record.message
    assert (record.levelno == logging.WARNING) == (wanted not in supported)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_start_says_so_and_serves_in_a_precision_that_it_has(
    runtime: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = ModelOptions(
        precision="float16",
        runtime="torch" if runtime == "torch" else "openvino",
        cache_dir=CONVERTED,
    )
    with caplog.at_level(logging.INFO):
        model = load_replica(detect(GOLDEN / "openai"), options)

    used = model.info.precision
    assert ("so float32 is used" in caplog.text) == (used == "float32")
    assert model.info.runtime == runtime
