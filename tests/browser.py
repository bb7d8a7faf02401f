"""A real browser for tests: Debian's Chromium, driven by playwright, and pages that are watched."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    FilePayload,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.image_files import plain
from tests.page_stand_in import COLOURS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER, so no page is tested: apt-get install chromium"
)
SIZES = {"desk": ViewportSize(width=1280, height=800), "phone": ViewportSize(width=375, height=812)}


@dataclass
class Watch:
    """A page, what it asked for, and what it complained of."""

    page: Page
    urls: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def check(self) -> None:
        """Fail on a policy's violation, a script's error, and a request to anywhere else."""
        assert self.urls
        outside = [url for url in self.urls if not re.match(r"http://127\.0\.0\.1:|data:", url)]
        refused = "Failed to load resource"  # the browser's own line for any answer above 399
        assert outside == []
        assert [line for line in self.complaints if refused not in line] == []


@contextmanager
def launched() -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS) as browser,
    ):
        yield browser


# Whatever the page copies; reading the machine's real clipboard may wait for ever.
KEEP_COPIES = "navigator.clipboard.writeText = async (text) => { window.lastCopy = text; };"


@contextmanager
def watching(browser: Browser, **options: Any) -> Iterator[Page]:
    context = browser.new_context(**options)
    context.set_default_timeout(10_000)
    context.add_init_script(KEEP_COPIES)
    page = context.new_page()
    watch = Watch(page)
    yield page
    context.close()
    watch.check()


def image(name: str) -> FilePayload:
    content = plain(COLOURS[name], (16, 16))
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": content}


def add(page: Page, texts: list[str], images: list[FilePayload]) -> None:
    if texts:
        page.get_by_role("textbox", name="Texts").fill("\n".join(texts))
        page.get_by_role("button", name="Add texts").click()
        expect(page.get_by_role("textbox", name="Texts")).to_have_value("")
    if images:
        page.get_by_label("Choose images").set_input_files(images)
    for file in images:  # seen once it is read
        seen = f"[alt='{file['name']}'], #tray .name:text-is('{file['name']}')"
        expect(page.locator(seen).first).to_be_attached()
    expect(page.locator("#tray .pending")).to_have_count(0)


def ranking(page: Page, title: str) -> Locator:
    return page.get_by_role("list", name=title).get_by_role("listitem")


def header(page: Page, name: str) -> Locator:
    return page.locator("#matrix").get_by_role("button", name=name, exact=True)


def copied(page: Page, button: str, *, within: str) -> str:
    page.locator(within).get_by_role("button", name=button).click()
    expect(page.locator("#announcer")).to_have_text("Copied")
    return str(page.evaluate("window.lastCopy"))


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until the target has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if target.evaluate("node => node === document.activeElement"):
            return
    pytest.fail("the Tab key never reaches it")


# The lowest contrast of a heat map's number with its cell, by WCAG's formula.
LOWEST_CONTRAST = """() => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((byte) => byte / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const cell = document.querySelector("#matrix td.cell");
    const contrasts = Array.from({ length: 10001 }, (_, step) => {  // each that the page writes
        cell.style.setProperty("--t", step / 10000);
        const style = getComputedStyle(cell);
        const [a, b] = [luminance(style.color), luminance(style.backgroundColor)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
    return Math.min(...contrasts);
}"""
