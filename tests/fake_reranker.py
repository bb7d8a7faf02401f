"""A fake reranker whose scores are functions of its pairs, so that any mix-up shows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from typing_extensions import override

from backends.model import Activation, EncodeParams, Model, ModelInput, Pair, Rows, Tower
from tests.fakes import AsItIs, FakeModel, vector_of

TOO_LONG = 50  # characters of a document that is told as cut


class Pairs(AsItIs):
    @override
    def prepare(self, part: Pair, params: EncodeParams) -> ModelInput:
        array = np.empty((), object)
        array[()] = part
        return ModelInput((array,), bucket=0, cost=1, truncated=len(part.document) > TOO_LONG)


class FakeReranker(FakeModel):
    """A model of one tower, of pairs; remembers its batches."""

    def __init__(self, activation: Activation = "identity") -> None:
        super().__init__()
        self.info = replace(
            self.info,
            dimensions=1,
            score_space="space",
            activations={self.info.text_mode: activation},
        )
        self.batches: list[list[Pair]] = []

    @property
    @override
    def model(self) -> Model:
        return Model(self.info, {"pair": Tower(Pairs(), lambda pairs: self.score(pairs.tolist()))})

    def score(self, pairs: Sequence[Pair]) -> Rows:
        self._pass_gate()
        self.batches.append(list(pairs))
        return np.stack([[self.score_of(*pair)] for pair in pairs])

    def score_of(self, query: str, document: str) -> np.float32:
        return logit_of(query, document)


def logit_of(query: str, document: str) -> np.float32:
    logit: np.float32 = vector_of(f"{query}|{document}")[0]
    return logit
