"""The log: its form, and its line for every request. No line holds a text or an image."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter

from config import Settings
from web.record import MODALITIES, RequestRecord

logger = logging.getLogger(__name__)

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
# Under overload or a broken client they come by the thousand; the metrics count them, and the line
# about the load sums them up.
_EXPECTED = {401, 404, 405, 429, 499}


def configure(settings: Settings) -> None:
    """Set up the log of the process."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        fields = ["levelname", "name", "message"]
        handler.setFormatter(JsonFormatter(fields, timestamp=True))
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


def log_request(record: RequestRecord) -> None:
    """Write a line: at warning for a problem, otherwise at debug."""
    is_problem = record.status >= 400 and record.status not in _EXPECTED
    level = logging.WARNING if is_problem else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "%s %s: %d in %.1f ms, %s, request %s%s",
        record.method,
        _on_one_line(record.path),
        record.status,
        1000 * record.total_s,
        ", ".join(f"{record.items[name]} {name}s" for name in MODALITIES if name in record.items)
        or "no items",
        record.request_id,
        f": {record.sentence}" if record.sentence else "",
        extra={"request_id": record.request_id, "status": record.status},
    )


def _on_one_line(path: str) -> str:
    return repr(path[:100])[1:-1]  # no line breaks of a client's choice in the log
