"""/docs: it asks nobody but this service, and what it offers to try can be tried."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import CHROMIUM, SIZES, launched, watching
from tests.service import ROOT, running
from web.docs import SWAGGER_UI, TEMPLATE, load_docs

SHOTS = ROOT / "build/page-shots"


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


@pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: apt-get install chromium")
@pytest.mark.timeout(120)
def test_an_example_is_tried_in_the_browser(tmp_path: Path) -> None:
    """`watching` fails on whatever the policy forbids, and on any request to elsewhere."""
    with (
        running(tmp_path / "log", MODELS_DIR=ROOT / "demo/models") as service,
        launched() as browser,
        watching(browser, viewport=SIZES["desk"]) as page,
    ):
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
