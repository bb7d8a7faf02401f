"""The tables of docs/settings.md, from the fields of config.py.

python -m documentation.settings    writes them into the page

Fields of one group stand together in config.py, so a group is known by its first field.
"""

from __future__ import annotations

from pathlib import Path

from pydantic.fields import FieldInfo

from config import DownloadSettings, Settings

PAGE = Path(__file__).parent.parent / "docs/settings.md"
MARK = "<!-- From here on `make docs-update` writes this page, from config.py. -->"
# The first field of each group, and the group's heading.
GROUPS = {
    "models_dir": "Model",
    "enable_cuda": "Device, precision and runtime",
    "trust_remote_code": "How a model reads",
    "max_batch_size": "Batches and memory of vectors",
    "max_request_bytes": "Limits of a request",
    "max_queue_items": "Load, time and shutdown",
    "embeddings_dimensions": "Names and options of the APIs",
    "authentication_allowed_tokens": "Network and tokens",
    "log_level": "Log and traces",
}
DOWNLOAD = """## When a model is downloaded

`download.py` and the build of an image read these variables. They name the model, and
[Models](models.md#models-by-name) lists their values for each model.
"""


def tables() -> str:
    """Return the generated part of the page."""
    parts = [MARK]
    for name, field in Settings.model_fields.items():
        if name in GROUPS:
            parts += ["", f"## {GROUPS[name]}", "", *_HEAD]
        parts.append(_row(name, field))
    parts += ["", DOWNLOAD, *_HEAD]
    parts += [_row(name, field) for name, field in DownloadSettings.model_fields.items()]
    return "\n".join(parts) + "\n"


_HEAD = ("| variable | default | meaning |", "|---|---|---|")


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{name.upper()}` | `{_shown(field.default)}` | {field.description} |"


def _shown(default: object) -> str:
    if default is None or default in ("", ()):
        return " "
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, Path):
        return f"./{default}"
    return str(default).lower() if isinstance(default, bool) else str(default)


def main() -> None:
    """Write the generated part anew."""
    written_by_hand = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(written_by_hand + tables(), encoding="utf-8")


if __name__ == "__main__":
    main()
