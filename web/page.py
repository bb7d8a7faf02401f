"""The debug page: index.html with sample images, and its Content-Security-Policy."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi import Response

PAGE = Path(__file__).with_name("index.html")
SAMPLES = PAGE.parents[1] / "demo" / "samples"
NO_SAMPLES = '<script type="application/json" id="samples">[]</script>'


def page_response() -> Response:
    """Return the response with the debug page; browsers check for a new one each time."""
    response = html_response(*load_page())
    response.headers["Vary"] = "Accept"
    return response


def html_response(content: bytes, allowed: str) -> Response:
    """Return a response with a page and its Content-Security-Policy."""
    headers = {
        "Content-Security-Policy": allowed,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, headers=headers, media_type="text/html")


def load_page(samples: Path = SAMPLES) -> tuple[bytes, str]:
    """Return the page and its Content-Security-Policy; the sample images may be missing."""
    html = PAGE.read_text("utf-8")
    index = samples / "samples.json"
    entries = json.loads(index.read_text("utf-8")) if index.is_file() else []
    shown = []
    for entry in entries:
        image = b64encode((samples / entry["file"]).read_bytes()).decode()
        shown.append({"src": f"data:image/png;base64,{image}", "caption": entry["caption"]})
    content = json.dumps(shown).replace("<", "\\u003c")  # nothing in it can end the script element
    block = NO_SAMPLES.replace("[]", content)
    return html.replace(NO_SAMPLES, block).encode(), policy(html)


def policy(html: str) -> str:
    """Return a Content-Security-Policy that allows only a page's own scripts, style and service."""
    own = []
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [b64encode(sha256(content.encode()).digest()).decode() for content in inline]
        own.append(f"{tag}-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    return (
        f"default-src 'none'; {'; '.join(own)}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
