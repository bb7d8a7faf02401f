"""The choice of the precision, and its line in the log."""

import logging
import re
from pathlib import Path

import pytest

from backends.folder import detect
from backends.model import ModelOptions, Precision, Runtime
from backends.precision import log_choice, log_refusal, usable
from backends.replicas import load_replica
from tests.golden_cases import GOLDEN, RUNTIMES
from tests.lesser_cpu import said_on_a_lesser_cpu
from tests.service import CONVERTED, ROOT, running
from tests.warned import warnings_of

GPU: tuple[Precision, ...] = ("float32", "float16", "bfloat16")


def test_what_a_device_would_have_to_imitate_is_not_used() -> None:
    assert usable("bfloat16", ["float32"]) == "float32"
    assert usable("bfloat16", GPU) == "bfloat16"
    assert usable("float32", GPU) == "float32"


@pytest.mark.parametrize(
    ("wanted", "supported", "line"),
    [
        ("float32", ("float32",), "Computing in float32; it has no faster precision"),
        ("float32", GPU, "it is faster with PRECISION=float16 (a cosine of about 0.999999) or "),
        ("bfloat16", GPU, "Computing in bfloat16; PRECISION=float32 gives the reference's"),
        ("float16", ("float32", "bfloat16"), "it is faster with PRECISION=bfloat16 (a cosine of"),
        (None, ("float32",), "Computing in float32; it has no faster precision"),
    ],
)
def test_the_log_says_what_there_is_and_what_is_used(
    wanted: Precision | None,
    supported: tuple[Precision, ...],
    line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        log_choice("it", wanted, usable(wanted, supported), supported)

    (record,) = caplog.records
    assert line in record.message
    assert record.levelno == logging.INFO


@pytest.mark.parametrize(
    ("wanted", "used", "sentence"),
    [
        ("int8", "float32", "PRECISION=int8: it cannot, so float32 is used"),
        ("float32", "int8", "PRECISION=float32: it cannot, so int8 is used"),
        ("bfloat16", "bfloat16", ""),
        ("float32", "float32", ""),
        (None, "int8", ""),
    ],
)
def test_a_warning_says_why_what_was_asked_for_is_not_used(
    wanted: Precision | None, used: Precision, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert log_refusal(wanted, used, "it cannot") == sentence
    assert warnings_of(caplog) == [sentence] * bool(sentence)


@pytest.mark.parametrize(
    ("wanted", "used", "named"),
    [
        ("float32", "float32", ["int8 (a product 4.0 times", "bfloat16 (a product 2.5 times"]),
        ("int8", "float32", ["bfloat16 (a product 2.5 times"]),  # it was refused
        (None, "int8", []),
    ],
)
def test_only_what_was_measured_to_be_faster_is_named_and_the_fastest_first(
    wanted: Precision | None,
    used: Precision,
    named: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    every: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8")
    measured: dict[Precision, float] = {"bfloat16": 2.5, "float16": 0.6, "int8": 4}
    with caplog.at_level(logging.INFO):
        log_choice("it", wanted, used, every, lambda: measured)

    (record,) = caplog.records
    assert re.findall(r"PRECISION=(\w+ \(a product ... times)", record.message) == named


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

    info = model.info
    assert info.runtime == runtime
    if info.precision == "float16":
        assert (info.refused, warnings_of(caplog)) == ("", [])
    else:
        assert "this CPU has no instructions for it, so float32 is used" in info.refused
        assert warnings_of(caplog) == [info.refused]


@pytest.mark.parametrize("wanted", [None, "float32"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_refused_where_nothing_else_was_asked_for(
    runtime: Runtime, wanted: Precision | None, caplog: pytest.LogCaptureFixture
) -> None:
    options = ModelOptions(precision=wanted, runtime=runtime, cache_dir=CONVERTED)
    assert load_replica(detect(GOLDEN / "openai"), options).info.refused == ""
    assert warnings_of(caplog) == []


@pytest.mark.skipif(
    "amx_bf16" not in Path("/proc/cpuinfo").read_text(), reason="imitates lesser CPUs than AMX"
)
@pytest.mark.parametrize(
    ("lesser", "worth_naming"),
    [("AVX2", set()), ("AVX512_CORE", set()), ("", {"bfloat16", "int8"})],
)
def test_what_a_machine_has_no_code_for_is_not_offered(lesser: str, worth_naming: set[str]) -> None:
    """Capabilities may lie: bfloat16 by AVX2 fails, and by AVX512_CORE takes 28 times as long.

    And int8 is slower without VNNI.
    """
    program = """
from backends.runtimes.openvino.cpu_capabilities import speedups
print(*(name for name, factor in speedups().items() if factor >= 1.2))
"""

    assert any(  # other work on the machine distorts single times
        set(said_on_a_lesser_cpu(lesser, program).split()) == worth_naming for _ in range(3)
    )


def test_log_meta_and_what_is_served_agree_where_a_machine_has_no_code_for_it(
    tmp_path: Path,
) -> None:
    """By AVX2 alone OpenVINO compiles bfloat16, and then raises."""
    asked = running(
        tmp_path / "log",
        MODELS_DIR=ROOT / "demo/models",
        PRECISION="bfloat16",
        ONEDNN_MAX_CPU_ISA="AVX2",
    )
    with asked as service:
        said = service.request("GET", "/meta")[1]["service"]

    lacking = "PRECISION=bfloat16: this CPU has no instructions for it, so float32 is used"
    assert (said["precision"], said["precision_refused"]) == ("float32", lacking)
    assert service.log.read_text().count(lacking) == 1
