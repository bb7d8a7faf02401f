"""The record of one request: what it brought, where its time went, and how it ended.

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
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[\x21-\x7e]*)?"
)
MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        request_id: by which its line in the log and its answer are known.
        method: of HTTP.
        path: what was asked, below the prefix at which the application is mounted.
        endpoint: the path by which the interface is known that was asked, or empty.
        headers: of the request, as ASGI has them.
        errors: how its errors are worded, where the body told what its path does not.
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
        trace_id: of the trace that it is in, where OpenTelemetry keeps it.
    """

    request_id: str = ""
    method: str = ""
    path: str = ""
    endpoint: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    errors: ErrorFormat | None = None
    items: Counter[Modality] = field(default_factory=Counter)
    truncated: Sequence[int] = ()
    no_tokens: Sequence[int] = ()
    context: RequestContext = field(default_factory=RequestContext)
    status: int = 0
    refused: Reason | None = None
    sentence: str = ""
    total_s: float = 0.0
    stages_s: dict[Stage, float] = field(default_factory=dict)
    trace_id: str = ""

    def end(self, status: int) -> None:
        """Note the answer."""
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
