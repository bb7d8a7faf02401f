"""The record of one request: what it brought, where its time went, and how it ended.

The header `Server-Timing`, the metrics and the log read the same record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from backends.model import Modality
from errors import Reason
from inference.request import RequestContext
from inference.timings import Stage

MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        request_id: by which its line in the log and its answer are known.
        method: of HTTP.
        path: what was asked, below the prefix at which the application is mounted.
        endpoint: the path by which the interface is known that was asked, or empty.
        items: how many inputs it brought, by modality.
        truncated: the places of those that were longer than the model reads, from 0.
        no_tokens: the places of texts of which the model knows no token, so that their vectors are
            zeros.
        context: its priority and its timestamps.
        status: what it was answered, 0 before that.
        refused: why it was not answered with vectors, in a word; None where it was.
        sentence: the same as the client was told it.
        total_s: seconds from its arrival to its answer.
        stages_s: seconds of each stage that it passed until then.
    """

    request_id: str = ""
    method: str = ""
    path: str = ""
    endpoint: str = ""
    items: Mapping[Modality, int] = field(default_factory=dict)
    truncated: Sequence[int] = ()
    no_tokens: Sequence[int] = ()
    context: RequestContext = field(default_factory=RequestContext)
    status: int = 0
    refused: Reason | None = None
    sentence: str = ""
    total_s: float = 0.0
    stages_s: dict[Stage, float] = field(default_factory=dict)

    def end(self, status: int) -> None:
        """Note the answer."""
        self.status = status
        ended_s = time.perf_counter()
        self.total_s = ended_s - self.context.times.arrived_s
        self.stages_s = self.context.times.stages(ended_s)
