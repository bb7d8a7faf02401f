"""The prompts of a sentence-transformers model: what it has learnt to find in front of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.model import Shaping

_QUERY = "query"
_DOCUMENTS = ("document", "passage", "corpus")  # of the names of a document's, the first counts


@dataclass(frozen=True)
class Prompts:
    """One for a query, and one for everything else.

    Source: `encode_query` and `encode_document` of sentence-transformers.
    """

    query: str = ""
    document: str = ""

    @classmethod
    def of_json(cls, prompts: Mapping[str, str]) -> Prompts:
        """Read those of a `config_sentence_transformers.json`, by their names."""
        document = next((prompts[name] for name in _DOCUMENTS if name in prompts), "")
        return cls(prompts.get(_QUERY, ""), document)

    def reduce(self, shaping: Shaping) -> Shaping:
        """Keep whether it is a query, where that makes a difference."""
        is_query = shaping.task == _QUERY and self.query != self.document
        return Shaping(task=_QUERY) if is_query else Shaping()

    def put_before(self, text: str, shaping: Shaping) -> str:
        """Put the prompt before a text; both together are stripped."""
        prompt = self.query if shaping.task == _QUERY else self.document
        return (prompt + text).strip()
