import re
from pathlib import Path

import pytest

from config import Settings, is_on, read
from errors import ConfigurationError

README = Path(__file__).parent.parent / "README.md"


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
    ("name", "value"), [("PORT", "many"), ("TEXT_MODE", "best"), ("RUNTIME", "gpu")]
)
def test_a_value_that_does_not_fit_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"{name}='{value}'"):
        read(Settings)


def shown(default: object) -> str:
    """Write a default as the README does."""
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_readme_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*) \|$", README.read_text(), re.MULTILINE))
    for name, field in Settings.model_fields.items():
        default = shown(field.default).replace("models", "./models") or " "
        assert rows.get(name.upper()) == f"`{default}` | {field.description}"
