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
    block = NO_SAMPLES.replace("[]", _samples_json(samples))
    return html.replace(NO_SAMPLES, block).encode(), policy(html)


def _samples_json(folder: Path) -> str:
    index = folder / "samples.json"
    entries = json.loads(index.read_text("utf-8")) if index.is_file() else []
    samples = [{"src": _data_url(folder / e["file"]), "caption": e["caption"]} for e in entries]
    return json.dumps(samples).replace("<", "\\u003c")  # nothing in it can end the script element


def _data_url(image: Path) -> str:
    return f"data:image/png;base64,{b64encode(image.read_bytes()).decode()}"


def policy(html: str) -> str:
    """Return a Content-Security-Policy that allows only a page's own scripts, style and service."""
    own = {tag: f"{tag}-src {_csp_hash(tag, html)}" for tag in ("script", "style")}
    return (
        f"default-src 'none'; {own['script']}; {own['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _csp_hash(tag: str, html: str) -> str:
    inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(i.encode()).digest()).decode()}'" for i in inline)
