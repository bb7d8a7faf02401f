"""The record of a request: its items, its timings, and its end.

The header `Server-Timing`, the metrics and the log read the same record.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from backends.model import Modality
from errors import Reason
from inference.request import RequestContext
from inference.timings import Stage

MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(slots=True)
class RequestRecord:
    """The record of a request.

    Attributes:
        request_id: the id in the log and in the answer.
        method: the HTTP method.
        path: the path, relative to the prefix at which the application is mounted.
        endpoint: the first path of its endpoint, or empty.
        items: number of inputs by modality.
        truncated: indexes of inputs that were truncated, from 0.
        no_tokens: indexes of texts without known tokens, whose vectors are zeros.
        context: the request's context, with priority and timestamps.
        status: status of the answer; 0 before the answer.
        refused: the reason of an error (a metric label); None for success.
        sentence: the error message that the client got.
        total_s: seconds from arrival to answer.
        stages_s: seconds by stage.
    """

    request_id: str = ""
    method: str = ""
    path: str = ""
    endpoint: str = ""
    items: Counter[Modality] = field(default_factory=Counter)
    truncated: Sequence[int] = ()
    no_tokens: Sequence[int] = ()
    context: RequestContext = field(default_factory=RequestContext)
    status: int = 0
    refused: Reason | None = None
    sentence: str = ""
    total_s: float = 0.0
    stages_s: dict[Stage, float] = field(default_factory=dict)

    def end(self, status: int) -> None:
        """Record the end, with the status of the answer."""
        self.status = status
        ended_s = time.perf_counter()
        self.total_s = ended_s - self.context.times.arrived_s
        self.stages_s = self.context.times.stages(ended_s)
