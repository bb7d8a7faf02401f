"""The screenshots of the documentation: the page and a contact sheet, of the demo model.

python -m documentation.screenshots         writes them into docs/assets; it needs chromium
python -m documentation.screenshots --views takes each tab into build/views, light, dark and narrow
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, ViewportSize

from documentation.drawings import ASSETS
from examples.contact_sheet import Match, contact_sheet
from tests.browser import launched
from tests.service import ROOT, running

QUERY = "three big blue stars"
MOST_BYTES = 150_000
VIEWS = ROOT / "build/views"
_TABS = ("compare", "gallery", "live")
_LOOKS: dict[str, tuple[ViewportSize, Literal["light", "dark"]]] = {
    "light": (ViewportSize(width=1280, height=860), "light"),
    "dark": (ViewportSize(width=1280, height=860), "dark"),
    "phone": (ViewportSize(width=390, height=844), "light"),
}
_COLOURS = 256  # of a palette: flat drawings need no more


def take_page(browser: Browser, url: str) -> bytes:
    """Take the page with the samples that it starts with."""
    page = browser.new_page(viewport=ViewportSize(width=1280, height=860))
    page.goto(url)
    page.locator("#map .point").first.wait_for()
    page.wait_for_timeout(1_000)  # its map moves into place
    return page.screenshot()


def take_views(browser: Browser, url: str, folder: Path) -> None:
    """Take each tab of the page in each look, to be compared before and after a change of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for look, (size, scheme) in _LOOKS.items():
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.goto(url)
        page.locator("#map .point").first.wait_for()
        for tab in _TABS:
            page.locator(f'input[name="tab"][value="{tab}"]').check(force=True)
            page.wait_for_timeout(1_000)
            page.screenshot(path=folder / f"{tab}-{look}.png", full_page=True)
        page.close()


def take_contact_sheet(browser: Browser, url: str, folder: Path) -> bytes:
    """Take the contact sheet of the samples, ranked as a search in Weaviate ranks them."""
    files = sorted((ROOT / "demo/samples").glob("*.png"))
    contents = [file.read_bytes() for file in files]
    body = {"texts": [QUERY], "images": [base64.b64encode(one).decode() for one in contents]}
    request = urllib.request.Request(f"{url}/vectorize", json.dumps(body).encode())  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - this machine's own service
        vectors = {name: np.array(rows) for name, rows in json.load(answer).items()}
    unit = {name: rows / np.linalg.norm(rows, axis=1)[:, None] for name, rows in vectors.items()}
    distances = (1 - unit["imageVectors"] @ unit["textVectors"][0]).tolist()
    matches = map(Match, files, contents, distances)
    ranked = sorted(matches, key=lambda match: match.distance)[:6]
    sheet = folder / "sheet.html"
    sheet.write_text(contact_sheet(QUERY, ranked), encoding="utf-8")
    page = browser.new_page(viewport=ViewportSize(width=1000, height=760))
    page.goto(sheet.as_uri())
    return page.screenshot()


def small(png: bytes) -> bytes:
    """Return a screenshot with a palette, which is a third as large."""
    packed = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def main() -> None:
    """Write both, or the views of the page."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(Path(scratch) / "log", MODELS_DIR=ROOT / "demo/models") as service,
        launched() as browser,
    ):
        url = f"http://127.0.0.1:{service.port}"
        if sys.argv[1:] == ["--views"]:
            take_views(browser, url, VIEWS)
            return
        ASSETS.mkdir(exist_ok=True)
        (ASSETS / "page.png").write_bytes(small(take_page(browser, url)))
        sheet = take_contact_sheet(browser, url, Path(scratch))
        (ASSETS / "contact-sheet.png").write_bytes(small(sheet))


if __name__ == "__main__":
    main()
