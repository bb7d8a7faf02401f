"""Renders a model's chat template in a separate process: the text before and after an input.

    python -m backends.families.chat_template < job.json      (see `backends/jobs.py`)

A chat template is a program that is downloaded with the weights. It is rendered once, before the
model serves. It runs in jinja's sandbox, in a process with limits on time and memory.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backends.jobs import Answer, JobError, run_in_subprocess, subprocess_main
from backends.json_files import read_optional_json
from errors import ModelFolderError

_TIMEOUT_S = 10
_MAX_BYTES = 1 << 30
_MARK = "7b1c2e63d1f24c0a"  # placeholder for the input text; no template contains it


@dataclass(frozen=True)
class RenderJob:
    """The parameters of a rendering.

    Attributes:
        template: the model's chat template.
        tokens: the special tokens that the template may name, such as `bos_token`.
        instruction: the system message.
        content: the user message, as a list of parts.
    """

    template: str
    tokens: Mapping[str, str]
    instruction: str
    content: Sequence[Mapping[str, str]]


def text_frame(folder: Path, tokens: Mapping[str, str], instruction: str) -> tuple[str, str]:
    """Return the conversation's text before and after an input text.

    Args:
        folder: the model's folder, with the template.
        tokens: the special tokens that the template may name.
        instruction: the system message.

    Raises:
        ModelFolderError: the template is missing, or does not write the input exactly once.
    """
    return _around(_MARK, folder, tokens, instruction, {"type": "text", "text": _MARK})


def image_frame(
    folder: Path, tokens: Mapping[str, str], instruction: str, token: str
) -> tuple[str, str]:
    """Return the conversation's text before and after an image token; see `text_frame`."""
    return _around(token, folder, tokens, instruction, {"type": "image", "image": "picture"})


def _around(
    mark: str, folder: Path, tokens: Mapping[str, str], instruction: str, part: Mapping[str, str]
) -> tuple[str, str]:
    job = {
        "template": _template_in(folder),
        "tokens": dict(tokens),
        "instruction": instruction,
        "content": [part],
    }
    try:
        answer = run_in_subprocess(__name__, job, called="it", timeout_s=_TIMEOUT_S)
    except JobError as error:
        raise ModelFolderError(
            f"rendering its chat template (in {folder.absolute()}) failed: {error}"
        ) from error
    before, *after = answer["text"].split(mark)
    if len(after) != 1:
        raise ModelFolderError(
            f"the chat template in {folder.absolute()} writes an input {len(after)} times, and "
            "must write it once"
        )
    return before, after[0]


def _template_in(folder: Path) -> str:
    """Read the chat template of the processor, or of the tokenizer if the processor has none."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = read_optional_json(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
    raise ModelFolderError(f"{folder.absolute()} holds no chat template (chat_template.jinja)")


def render(job: RenderJob) -> Answer:
    """Render a conversation up to where the model's answer would begin.

    Raises:
        jinja2.TemplateError: the template is invalid, or raises an error.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": job.instruction}]},
        {"role": "user", "content": job.content},
    ]
    template = environment.from_string(job.template)
    text = template.render(messages=messages, add_generation_prompt=True, **job.tokens)
    return {"text": text}


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    subprocess_main(lambda described: render(RenderJob(**described)))
