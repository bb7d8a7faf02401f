import os
import re
import traceback
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from config import DownloadSettings, Settings, doubts, is_on, read
from errors import ConfigurationError

PAGE = Path(__file__).parent.parent / "docs/settings.md"


@pytest.mark.parametrize("value", ["1", "true", "True", " TRUE "])
def test_one_and_true_switch_on(value: str) -> None:
    assert is_on(value)


@pytest.mark.parametrize("value", ["0", "false", "", "yes", "on", "2"])
def test_anything_else_is_off(value: str) -> None:
    assert not is_on(value)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9090")
    monkeypatch.setenv("ENABLE_CUDA", "1")

    assert read(Settings).port == 9090
    assert read(Settings).enable_cuda is True


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")

    assert read(Settings).port == 8080


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "many", "PORT: a whole number, such as 8080, and not 'many'"),
        ("PORT", "70000", "PORT: 65535 or less, and not '70000'"),
        (
            "MAX_REQUEST_BYTES",
            "100MB",
            "MAX_REQUEST_BYTES: a whole number of bytes, such as 100000000, and not '100MB'",
        ),
        ("MAX_TEXT_CHARS", "0", "MAX_TEXT_CHARS: 1 or more, and not '0'"),
        ("MAX_NUM_PATCHES", "x", "MAX_NUM_PATCHES: a whole number, and not 'x'"),
        (
            "REQUEST_TIMEOUT_S",
            "45s",
            "REQUEST_TIMEOUT_S: a number of seconds, such as 45, and not '45s'",
        ),
        (
            "REQUEST_TIMEOUT_S",
            "inf",
            "REQUEST_TIMEOUT_S: a number of seconds, such as 45, and not 'inf'",
        ),
        ("REQUEST_TIMEOUT_S", "0", "REQUEST_TIMEOUT_S: more than 0, and not '0'"),
        ("TEXT_MODE", "best", "TEXT_MODE: 'trained' or 'reference', and not 'best'"),
        ("RUNTIME", "gpu", "RUNTIME: 'openvino' or 'torch', and not 'gpu'"),
        (
            "LOG_LEVEL",
            "loud",
            "LOG_LEVEL: 'debug', 'info', 'warning' or 'error', and not 'loud'",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_reported_in_our_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as failure:
        read(Settings)
    assert str(failure.value) == sentence


class Secretive(Settings):
    vector_cache_secret: SecretStr | None = Field(default=None, min_length=99)


def test_a_secret_that_does_not_fit_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTOR_CACHE_SECRET", "hidden")
    monkeypatch.setenv("VECTOR_CACHE_TIMEOUT_MS", "10s")
    with pytest.raises(ConfigurationError) as failure:
        read(Secretive)

    told = str(failure.value)
    assert "VECTOR_CACHE_SECRET: " in told
    assert ("VECTOR_CACHE_TIMEOUT_MS: a number of milliseconds, such as 10, and not '10s'") in told
    assert "hidden" not in "".join(traceback.format_exception(failure.value))
    monkeypatch.setenv("VECTOR_CACHE_URL", "redis://:hidden@h")
    monkeypatch.delenv("VECTOR_CACHE_TIMEOUT_MS")
    assert "hidden" not in repr(read(Settings))


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if field.annotation in (int, float, int | None)
]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_reported_in_words_of_the_library(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name.upper(), "?")

    with pytest.raises(ConfigurationError, match=r": a (whole )?number.*, and not '\?'$"):
        read(Settings)


@pytest.mark.parametrize("value", ["INFO", "Info", "info"])
def test_the_log_level_is_read_in_any_case(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LOG_LEVEL", value)

    assert read(Settings).log_level == "info"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with nothing in it."""
    for name in os.environ:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAX_BATCHSIZE", "MAX_BATCH_SIZE"),
        ("MAX_BATCH_SIZES", "MAX_BATCH_SIZE"),
        ("MODEL_DIR", "MODELS_DIR"),
        ("MODELS_DRI", "MODELS_DIR"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("model_dir", "MODELS_DIR"),
        ("AUTHENTICATION_ALLOWED_TOKEN", "AUTHENTICATION_ALLOWED_TOKENS"),
        ("CLIP_MODEL_NAM", "CLIP_MODEL_NAME"),
        ("ENABLE_CASHE", "ENABLE_CACHE"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_a_name_within_two_edits_of_a_setting_is_reported_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "a secret")

    assert doubts() == [f"{name} is no setting, and does nothing: is {meant} meant?"]


@pytest.mark.usefixtures("alone")
def test_the_usual_environment_of_a_pod_is_not_reported_of(monkeypatch: pytest.MonkeyPatch) -> None:
    services = ("KUBERNETES", "MULTI2VEC_CLIP", "MULTI2VEC_CLIP_BALANCER", "WEAVIATE", "MODELS")
    for service in (*services, "MODEL", "LOG", "DEBUG", "TEXT", "CUDA", "RUNTIME"):
        port = f"{service}_PORT"
        of_service = (f"{service}_SERVICE_HOST", f"{service}_SERVICE_PORT_HTTP", port)
        of_port = (f"{port}_8080_TCP{end}" for end in ("", "_PROTO", "_PORT", "_ADDR"))
        for name in (*of_service, f"{service}_SERVICE_PORT", *of_port):
            monkeypatch.setenv(name, "tcp://10.0.0.1:8080")
    usual = ("HOSTNAME", "HOME", "PATH", "LANG", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256")
    of_gpus = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VERSION", "CUDA_HOME", "LD_LIBRARY_PATH")
    for name in (*usual, *of_gpus, "HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "TERM"):
        monkeypatch.setenv(name, "x")
    for name in (*Settings.model_fields, *DownloadSettings.model_fields):
        monkeypatch.setenv(name.upper(), "1")

    assert doubts() == []


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("value", ["1", " TRUE ", "0", "False", ""])
def test_a_switch_says_what_it_is_by_four_values(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ENABLE_CUDA", value)

    assert doubts() == []


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ["ENABLE_CUDA", "TRUST_REMOTE_CODE", "DEBUG_PAGE", "ONNX_RUNTIME"])
def test_a_switch_with_another_value_is_off_and_reported(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "yes")

    assert doubts() == [f"{name} is off: of all values only 1 and true switch it on"]
    assert getattr(Settings(), name.lower(), False) is False


@pytest.mark.usefixtures("alone")
def test_variables_of_the_references_that_mean_nothing_here_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WORKERS", "ENABLE_CACHE", "ONNX_CPU"):
        monkeypatch.setenv(name, "1")

    assert doubts() == [
        "No effect here, and none is needed (see docs/migrating.md): "
        "ENABLE_CACHE, WORKERS, ONNX_CPU"
    ]


def shown(default: object) -> str:
    """Write a default as the page of settings does."""
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_page_of_settings_lists_every_setting_with_its_default_and_meaning() -> None:
    of_the_service, _, of_a_download = PAGE.read_text().partition("## When a model is downloaded")
    for kind, part in ((Settings, of_the_service), (DownloadSettings, of_a_download)):
        rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*) \|$", part, re.MULTILINE))
        for name, field in kind.model_fields.items():
            default = shown(field.default).replace("models", "./models") or " "
            assert rows.get(name.upper()) == f"`{default}` | {field.description}"
