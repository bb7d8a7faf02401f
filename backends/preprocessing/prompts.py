"""Writes a model's prompt, or the name of the task, in front of each text."""

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
    """A model's prompts for queries and for documents.

    Source: `encode_query` and `encode_document` of sentence-transformers. According to its
        documentation, `encode_document` falls back to prompts of other names. It never does, as
        the prompt `document` always exists, even if empty.
    """

    query: str = ""
    document: str = ""

    @classmethod
    def from_json(cls, prompts: Mapping[str, str | None]) -> Prompts:
        """Read the prompts of a `config_sentence_transformers.json`."""
        return cls(prompts.get(_QUERY) or "", prompts.get("document") or "")

    def as_json(self) -> dict[str, object]:
        """Return the prompts as JSON types."""
        return asdict(self)

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Keep the task `query` if its prompt differs from the document prompt; drop the rest."""
        is_query = params.task == _QUERY and self.query != self.document
        return EncodeParams(task=_QUERY) if is_query else EncodeParams()

    def put_before(self, text: str, task: str) -> str:
        """Return a text with the prompt of a task in front, without white space around both."""
        prompt = self.query if task == _QUERY else self.document
        return (prompt + text).strip()


def wants_prefixes(options: ModelOptions, stored: bool | None) -> bool:
    """Return whether the name of the task is written in front of texts.

    Args:
        options: the operator's options.
        stored: the value in the model folder, which overrides the options; None if it has none.
    """
    return options.prefixes if stored is None else stored


def prefixed(text: str, task: str) -> str:
    """Return a text with the name of a task in front, as in the training of E5 models."""
    return f"{task}: {text}" if task else text


class PromptedProcessor(SinglePart):
    """Writes a prompt in front of a text, and preprocesses both together.

    Args:
        processor: the input processor for prompt and text together.
        prompts: the model's prompts.
        has_prefixes: whether the name of the task is also written, between prompt and text.
    """

    def __init__(self, processor: InputProcessor, prompts: Prompts, has_prefixes: bool) -> None:
        self._processor = processor
        self._prompts = prompts
        self._has_prefixes = has_prefixes
        self.reading = "prefixes" if has_prefixes else ""

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Keep the task, if the text's vector depends on it."""
        return (
            EncodeParams(task=params.task) if self._has_prefixes else self._prompts.resolve(params)
        )

    def estimate(self, text: str) -> int:
        """Estimate the cost of a text, with the document prompt in front."""
        return self._processor.estimate(self._whole(text, ""))

    def prepare(self, text: str, params: EncodeParams) -> ModelInput:
        """Preprocess a text with the prompt of its task in front."""
        return self._processor.prepare(self._whole(text, params.task), params)

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Stack items of one bucket."""
        return self._processor.collate(items)

    def limit_ids(self, rows: int) -> None:
        """Reject texts with ids that have no embedding."""
        self._processor.limit_ids(rows)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        return self._processor.decode(ids)

    def _whole(self, text: str, task: str) -> str:
        return self._prompts.put_before(prefixed(text, task if self._has_prefixes else ""), task)


def read(folder: Path, described: Mapping[str, Any], options: ModelOptions) -> PromptedProcessor:
    """Load the input processor that a converted model describes."""
    prompts = Prompts(described["query"], described["document"])
    has_prefixes = wants_prefixes(options, described["prefixes"])
    of_texts = read_preparation(folder, described["of"], options)
    return PromptedProcessor(of_texts, prompts, has_prefixes)
