"""/docs: it asks nobody but this service, and what it offers to try can be tried."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import SIZES, needs_browser, watching
from tests.service import ROOT, Service, running
from web.docs import SWAGGER_UI, TEMPLATE, load_docs

SHOTS = ROOT / "build/page-shots"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("docs") / "log"
    with running(log, MODELS_DIR=ROOT / "demo/models") as service:
        yield service


def test_every_part_is_in_it() -> None:
    page = load_docs()[0].decode()

    assert page.count("</script>") == TEMPLATE.read_text().count("</script>")
    assert "<!--" not in page
    assert load_docs() is load_docs()  # it takes 20 ms and more
    assert (SWAGGER_UI / "swagger-ui.css").read_text() in page
    assert not re.findall(r'(?:src|href)="(?!data:)', TEMPLATE.read_text())


def test_its_policy_is_that_of_the_page() -> None:
    _, allowed = load_docs()

    assert allowed.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in allowed
    assert "http" not in allowed


@needs_browser
@pytest.mark.timeout(120)
def test_an_example_is_tried_in_the_browser(browser: Browser, service: Service) -> None:
    """`watching` fails on whatever the policy forbids, and on any request to elsewhere."""
    with watching(browser, viewport=SIZES["desk"]) as page:
        operation = page.locator("#operations-model-vectorize")
        for address in ("//docs/", "/docs"):
            answer = page.goto(f"http://127.0.0.1:{service.port}{address}")
            assert answer
            assert answer.headers["content-security-policy"] == load_docs()[1]
            expect(operation).to_be_visible()
        expect(page.get_by_role("button", name="Authorize")).to_be_visible()
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        answered = operation.locator(".live-responses-table .response").first
        expect(answered.locator(".response-col_status")).to_contain_text("200")
        expect(answered).to_contain_text("textVectors")
        page.screenshot(path=SHOTS / "docs.png", full_page=True)


# By WCAG's formula, of the title with what is behind it.
CONTRAST = r"""() => {
    const luminance = (colour) => {
        const [r, g, b] = colour.match(/[\d.]+/g).map((byte) => byte / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = document.querySelector(".info .title");
    const front = luminance(getComputedStyle(behind).color);
    const ground = () => getComputedStyle(behind).backgroundColor;
    while (behind && /^rgba\(.*, 0\)$/.test(ground())) behind = behind.parentElement;
    const back = behind ? luminance(ground()) : 1;  // where nothing has a colour it is white
    return [back, (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05)];
}"""


@needs_browser
@pytest.mark.timeout(120)
def test_it_is_dark_where_the_reader_wants_it(browser: Browser, service: Service) -> None:
    shades = {}
    for theme in ("light", "dark"):
        options: Any = {"color_scheme": theme, "viewport": SIZES["desk"]}
        with watching(browser, **options) as page:
            page.goto(f"http://127.0.0.1:{service.port}/docs")
            expect(page.locator(".info .title")).to_be_visible()
            shades[theme], contrast = page.evaluate(CONTRAST)
            page.screenshot(path=SHOTS / f"docs-{theme}.png")
            assert contrast > 7

    assert shades["dark"] < 0.1 < 0.8 < shades["light"]
