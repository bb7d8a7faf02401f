"""What a model has learnt to find in front of a text: its prompts, or the name of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.model import Arrays, EncodeParams, InputProcessor, ModelInput, ModelOptions
from backends.preprocessing.loaders import read_preparation
from backends.preprocessing.single_part import SinglePart

_QUERY = "query"


@dataclass(frozen=True)
class Prompts:
    """One for a query, and one for everything else.

    Source: `encode_query` and `encode_document` of sentence-transformers. Its documentation names
    other prompts that the latter would take; as there always is one called `document`, be it
    empty, it never does.
    """

    query: str = ""
    document: str = ""

    @classmethod
    def of_json(cls, prompts: Mapping[str, str | None]) -> Prompts:
        """Read those of a `config_sentence_transformers.json`, by their names."""
        return cls(prompts.get(_QUERY) or "", prompts.get("document") or "")

    def as_json(self) -> dict[str, object]:
        """Describe them in JSON's types."""
        return asdict(self)

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Keep whether it is a query, where that makes a difference."""
        is_query = params.task == _QUERY and self.query != self.document
        return EncodeParams(task=_QUERY) if is_query else EncodeParams()

    def put_before(self, text: str, task: str) -> str:
        """Put the prompt of a task before a text; both together are stripped."""
        prompt = self.query if task == _QUERY else self.document
        return (prompt + text).strip()


def wants_prefixes(options: ModelOptions, said: bool | None) -> bool:
    """Tell whether the name of the task is written in front of a text.

    Args:
        options: what the operator says.
        said: what the model's folder says; it beats them.
    """
    return options.prefixes if said is None else said


def prefixed(text: str, task: str) -> str:
    """Write the name of a task in front of a text, as E5 and its like have learnt it."""
    return f"{task}: {text}" if task else text


class PromptedProcessor(SinglePart):
    """Puts a prompt before a text, and prepares both together.

    Args:
        processor: of texts in one piece.
        prompts: of the model.
        has_prefixes: whether the name of the task stands between them.
    """

    def __init__(self, processor: InputProcessor, prompts: Prompts, has_prefixes: bool) -> None:
        self._processor = processor
        self._prompts = prompts
        self._has_prefixes = has_prefixes
        self.reading = "prefixes" if has_prefixes else ""

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Keep the task, where the text's vector depends on it."""
        return (
            EncodeParams(task=params.task) if self._has_prefixes else self._prompts.resolve(params)
        )

    def estimate(self, text: str) -> int:
        """Guess what a text costs with the prompt of a document."""
        return self._processor.estimate(self._whole(text, ""))

    def prepare(self, text: str, params: EncodeParams) -> ModelInput:
        """Return what is made of both."""
        return self._processor.prepare(self._whole(text, params.task), params)

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Put items of one bucket together."""
        return self._processor.collate(items)

    def limit_ids(self, rows: int) -> None:
        """Let the other read no text with an id that has no embedding."""
        self._processor.limit_ids(rows)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        return self._processor.text_of(ids)

    def _whole(self, text: str, task: str) -> str:
        return self._prompts.put_before(prefixed(text, task if self._has_prefixes else ""), task)


def read(folder: Path, described: Mapping[str, Any], options: ModelOptions) -> PromptedProcessor:
    """Make the preparation of a converted model's folder."""
    prompts = Prompts(described["query"], described["document"])
    has_prefixes = wants_prefixes(options, described["prefixes"])
    of_texts = read_preparation(folder, described["of"], options)
    return PromptedProcessor(of_texts, prompts, has_prefixes)
