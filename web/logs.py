"""Logging: format, and a line for each request. No line holds a text or an image."""

from __future__ import annotations

import logging

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from config import Settings
from web.record import MODALITIES, RequestRecord, trace_id_of

logger = logging.getLogger(__name__)

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
# Errors with these statuses are no warnings: under overload, or from a broken client, there are
# thousands. Metrics and the load log count them.
_EXPECTED = {401, 404, 405, 429, 499}
# Characters in a client's text that break a line, colour it, or show it in another order (the
# bidirectional controls of Unicode), and their escapes.
_BREAKS = (*range(32), *range(127, 160), 0x2028, 0x2029)
_BIDIRECTIONAL = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*_BREAKS, *_BIDIRECTIONAL)}


def configure(settings: Settings) -> None:
    """Set the level and the format of the process's log."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        fields = ["levelname", "name", "message"]
        # uvicorn adds each of its messages a second time, with ANSI colour codes.
        reserved = [*RESERVED_ATTRS, "color_message"]
        handler.setFormatter(JsonFormatter(fields, reserved_attrs=reserved, timestamp=True))
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


def log_request(record: RequestRecord) -> None:
    """Log a request: as a warning if it failed, else at debug level."""
    is_problem = record.status >= 400 and record.status not in _EXPECTED
    level = logging.WARNING if is_problem else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    trace_id = record.trace_id or trace_id_of(record.headers)
    path, duration_ms = on_one_line(record.path), round(1000 * record.total_s, 1)
    logger.log(
        level,
        "%s %s: %d in %.1f ms, %s%s, request %s%s%s",
        record.method,
        path,
        record.status,
        duration_ms,
        ", ".join(f"{record.items[name]} {name}s" for name in MODALITIES if name in record.items)
        or "no items",
        f", model {record.model}" if record.model else "",
        record.request_id,
        f", trace {trace_id}" if trace_id else "",
        f": {record.message.translate(_CONTROLS)}" if record.message else "",
        extra={
            "method": record.method,
            "path": path,
            "endpoint": record.endpoint,
            **({"model": record.model} if record.model else {}),
            "status": record.status,
            "duration_ms": duration_ms,
            **{f"{name}s": record.items[name] for name in MODALITIES},
            "reason": record.refused,
            "request_id": record.request_id,
            "trace_id": trace_id,
        },
    )


def on_one_line(given: str) -> str:
    """Return a client's text, at most 100 characters of it, with its controls escaped."""
    return given[:100].translate(_CONTROLS)
