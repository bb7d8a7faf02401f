"""The record of a request: its items, its timings, and its end.

The header `Server-Timing`, the metrics and the log read the same record.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from backends.model import Modality
from errors import Reason
from inference.request import RequestContext
from inference.timings import Stage
from web.endpoints.error_format import ErrorFormat

_TRACEPARENT = re.compile(
    rb"(?!ff|00.{53}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[\x21-\x7e]*)?"
)
MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(slots=True)
class RequestRecord:
    """The record of a request.

    Attributes:
        request_id: the id in the log and in the answer.
        method: the HTTP method.
        path: the path, relative to the prefix at which the application is mounted.
        endpoint: the first path of its endpoint, or empty.
        headers: headers of the request, as in ASGI.
        model: the name of the model that it reached; empty if it reached none, or if models have no
            names.
        errors: the error format, if the body selects another than the path.
        items: number of inputs by modality.
        truncated: indexes of inputs that were truncated, from 0.
        no_tokens: indexes of texts without known tokens, whose vectors are zeros.
        context: the request's context, with priority and timestamps.
        status: status of the answer; 0 before the answer.
        refused: the reason of an error (a metric label); None for success.
        message: the error message that the client got.
        total_s: seconds from arrival to answer.
        stages_s: seconds by stage.
        trace_id: id of its OpenTelemetry trace; empty if there is none.
    """

    request_id: str = ""
    method: str = ""
    path: str = ""
    endpoint: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    model: str = ""
    errors: ErrorFormat | None = None
    items: Counter[Modality] = field(default_factory=Counter)
    truncated: Sequence[int] = ()
    no_tokens: Sequence[int] = ()
    context: RequestContext = field(default_factory=RequestContext)
    status: int = 0
    refused: Reason | None = None
    message: str = ""
    total_s: float = 0.0
    stages_s: dict[Stage, float] = field(default_factory=dict)
    trace_id: str = ""

    def end(self, status: int) -> None:
        """Record the status of the answer, and the durations of the request."""
        self.status = status
        ended_s = time.perf_counter()
        self.total_s = ended_s - self.context.times.arrived_s
        self.stages_s = self.context.times.stages(ended_s)


def trace_id_of(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the id of the trace that a client's `traceparent` names, or an empty text.

    Source: Trace Context, a recommendation of W3C.
    """
    given = dict(headers).get(b"traceparent", b"")
    found = _TRACEPARENT.fullmatch(given)
    return found[1].decode() if found else ""
