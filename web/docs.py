"""The page `/docs`: Swagger UI in one file, which loads nothing from other servers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from web.page import policy

TEMPLATE = Path(__file__).with_name("docs.html")
SWAGGER_UI = Path(__file__).with_name("swagger_ui")
_PARTS = ("swagger-ui.css", "swagger-ui-bundle.js")


@cache
def load_docs() -> tuple[bytes, str]:
    """Return the page, which contains Swagger UI, and its Content-Security-Policy."""
    html = TEMPLATE.read_text("utf-8")
    for part in _PARTS:
        # After "<!--" and "<script" a browser would not see where a script ends.
        text = (SWAGGER_UI / part).read_text("utf-8").replace("<!--", "\\x3c!--")
        html = html.replace(f"/* {part} */", text)
    return html.encode(), policy(html)
