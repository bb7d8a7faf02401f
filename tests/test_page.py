"""The debug page in a real browser: against a stand-in whose ranking is known, and the service.

Screenshots go to build/page-shots, which git ignores: look at them after a change of the page.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from documentation.screenshots import take_views
from tests.browser import (
    LOWEST_CONTRAST,
    SIZES,
    add,
    copied,
    header,
    image,
    needs_browser,
    ranking,
    tab_to,
    watching,
)
from tests.golden_rerankers import GOLDEN_RERANKERS
from tests.golden_texts import GOLDEN_TEXTS
from tests.image_files import plain
from tests.page_stand_in import COLOURS, draw_samples, serving, stand_in
from tests.service import ROOT, running
from web.page import SAMPLES, load_page

pytestmark = [
    needs_browser,
    pytest.mark.timeout(120),  # playwright's own time-outs do not reach all it does
]
DEMO_MODELS = ROOT / "demo/models"
SHOTS = ROOT / "build/page-shots"
REFUSED = (  # a long one
    "PRECISION=int8: in int8 this model's texts differ too much from those in float32: cosine "
    "0.9412 in the median, 0.8731 at worst, so float32 is used"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Stand-ins below one address: /plain/ lacks samples and metrics, /texts/ reads texts only.

    /drawn/ is not in the precision that was asked for.
    """
    own = draw_samples(tmp_path_factory.mktemp("samples"))
    stand_ins = {
        "/plain": stand_in(None),
        "/demo": stand_in(own),
        "/drawn": stand_in(SAMPLES, refused=REFUSED),
        "/texts": stand_in(SAMPLES, modalities=["text"]),
    }
    routes = [Mount(path, one) for path, one in stand_ins.items()]
    with serving(Starlette(routes=routes)) as url:
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with watching(browser) as page:
        yield page


def shown(number: float) -> str:
    """A score or a cosine as the page shows it."""
    return f"{number:.3f}".replace("-", "\N{MINUS SIGN}")


# --- tests


def test_no_two_parts_have_one_name() -> None:
    names = re.findall(r' id="([^"]+)"', load_page()[0].decode())

    assert len(names) == len(set(names))


def test_shows_documents_before_and_after_a_reranker(page: Page, tmp_path: Path) -> None:
    documents = ["Wait a day.", "Flour, water, salt.", "A boat.", "Bake it at 230 °C. " * 200]
    with running(tmp_path / "log", MODELS_DIR=GOLDEN_RERANKERS / "bert") as service:
        query, sent = "How do I make bread?", [text.strip() for text in documents]
        body = {"query": query, "documents": sent}
        scores = service.request("POST", "/rerank", body)[1]["scores"]
        page.goto(f"http://127.0.0.1:{service.port}/")
        page.get_by_role("textbox", name="Query").fill(query)
        page.get_by_role("textbox", name="Documents").fill("\n".join(documents))
        page.get_by_role("button", name="Rank them").click()
        best_first = sorted(scores, key=lambda one: -one["score"])
        expect(ranking(page, "Before")).to_contain_text(sent)
        expect(ranking(page, "After")).to_contain_text([one["document"] for one in best_first])
        numbers = [shown(one["score"]) for one in best_first]
        expect(ranking(page, "After").locator("b")).to_have_text(numbers)
        expect(ranking(page, "After").filter(has_text="longer than the model reads")).to_have_count(
            1
        )
        expect(page.locator("#facts")).to_contain_text("scores")
        expect(page.get_by_role("textbox", name="Texts")).to_be_hidden()
        page.screenshot(path=SHOTS / "reranker.png", full_page=True)
        command = copied(page, "Copy curl", within="#ranked")
        answer = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
        assert json.loads(answer.stdout)["scores"] == scores
        page.get_by_role("textbox", name="Documents").fill("a" * 100_001)
        page.get_by_role("button", name="Rank them").click()
        expect(page.locator("#rank-fault")).to_contain_text("documents[0]: the document has 100001")


def test_says_what_model_is_served_and_that_it_is_ready(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")

    expect(page.locator("#status")).to_have_text("Ready")
    for place in ("header #model", "#facts"):
        expect(page.locator(place)).to_contain_text("org/some-clip")
    for fact in ("transformers-clip", "151M parameters", "cpu", "float32, openvino", "trained"):
        expect(page.locator("#facts")).to_contain_text(fact)
    expect(page.locator("#throughput")).to_have_count(0)
    expect(page.locator("#refused")).to_be_hidden()


def test_says_why_the_precision_is_not_the_one_that_was_asked_for(page: Page, service: str) -> None:
    page.goto(f"{service}/drawn/")

    expect(page.locator("#refused")).to_be_visible()
    expect(page.locator("#refused")).to_have_text(REFUSED)


def test_ranks_the_right_image_first(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    add(page, ["a blue thing", "a red thing"], [image("red"), image("green"), image("blue")])

    header(page, "a red thing").click()
    expect(ranking(page, "Closest images").first).to_contain_text("red.png")
    header(page, "a blue thing").click()
    expect(ranking(page, "Closest images").first).to_contain_text("blue.png")
    header(page, "blue.png").click()
    expect(ranking(page, "Closest texts").first).to_contain_text("a blue thing")
    expect(page.locator("#matrix td.cell")).to_have_count(2 * 3)
    page.get_by_text("All pairs").click()
    expect(page.locator("#matrix td.cell")).to_have_count(5 * 5 - 5)


def test_a_broken_image_shows_the_services_sentence_and_spares_the_others(
    page: Page, service: str
) -> None:
    page.goto(f"{service}/plain/")
    broken: FilePayload = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    add(page, ["a red thing"], [image("red"), broken])

    expect(page.locator("#tray .error")).to_have_text("not an image")
    expect(page.locator("#tray li")).to_contain_text("broken.png")
    expect(page.locator("#matrix td.cell")).to_have_count(1)
    page.get_by_role("button", name="Dismiss broken.png").click()
    expect(page.locator("#tray li")).to_have_count(0)


# Bring an image in as a browser does when someone pastes or drops a file.
BRING_IN = """([kind, raw]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(raw)], kind + ".png"));
    const init = { clipboardData: data, dataTransfer: data, bubbles: true, cancelable: true };
    const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
    document.body.dispatchEvent(new Kind(kind, init));
}"""


def test_a_pasted_and_a_dropped_image_are_added(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    for kind, colour in (("paste", "red"), ("drop", "blue")):
        page.evaluate(BRING_IN, [kind, list(image(colour)["buffer"])])

    expect(header(page, "paste.png").first).to_be_visible()
    expect(header(page, "drop.png").first).to_be_visible()


def test_the_copied_curl_command_gets_the_same_answer(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    add(page, ['it\'s "red" $HOME', "blue"], [image("red")])

    command = copied(page, "Copy curl", within="#request")
    status = "-w '\\n%{http_code}' "
    shell = subprocess.run(
        ["bash", "-c", command.replace("curl ", f"curl {status}", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    answer, code = shell.stdout.rsplit("\n", 1)
    assert code == "200"
    assert json.loads(answer)["textVectors"] == [[1, 0, 0, 0.3], [0, 0, 1, 0.3]]
    assert len(json.loads(answer)["imageVectors"]) == 1
    assert "… kB" not in command


def test_the_vector_is_copied_as_json(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    add(page, ["green"], [])

    assert json.loads(copied(page, "Copy vector", within="#selected")) == [0, 1, 0, 0.3]


def test_the_demo_model_shows_its_samples_timings_and_throughput_at_once(
    page: Page, service: str
) -> None:
    page.goto(f"{service}/demo/")

    expect(page.locator("#matrix td.cell")).to_have_count(3 * 3)
    expect(page.locator("#matrix td.best")).to_have_count(3)
    expect(page.locator("#selected")).to_contain_text("something <red>")
    expect(page.locator("#timing")).to_contain_text("encode 3.2 ms")
    expect(page.locator("#throughput")).to_contain_text("queued 3")
    expect(page.locator("#map .point")).to_have_count(6)
    page.get_by_role("button", name="Clear the screen").click()
    expect(page.locator("#map .point.gone")).to_have_count(6)


def test_works_by_keyboard_alone(page: Page, service: str) -> None:
    page.goto(f"{service}/demo/")
    expect(page.locator("#matrix td.cell")).to_have_count(9)

    tab_to(page, page.get_by_role("textbox", name="Texts"))
    page.keyboard.type("blue and green")
    page.keyboard.press("Enter")
    expect(header(page, "blue and green")).to_have_attribute("aria-pressed", "true")
    tab_to(page, page.locator("#cross"))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#matrix td.cell")).to_have_count(7 * 6)
    page.keyboard.press("ArrowLeft")
    tab_to(page, header(page, "something <green>"))
    page.keyboard.press("Enter")
    expect(page.locator("#selected")).to_contain_text("something <green>")
    expect(header(page, "something <green>")).to_be_focused()
    expect(page.locator("#announcer")).to_contain_text("Selected: something <green>")
    page.keyboard.press("Delete")
    expect(page.locator("#matrix td.cell")).to_have_count(9)


def test_a_model_of_texts_compares_texts_with_texts(page: Page, service: str) -> None:
    page.goto(f"{service}/texts/")
    expect(page.locator("#throughput")).to_contain_text("texts 0.0, queued 3")
    add(page, ["a blue thing", "a red and blue thing", "a green thing"], [])
    add(page, ["blue"], [])

    expect(page.locator("#selected")).to_contain_text("Query")
    expect(page.locator("#selected .subject")).to_contain_text("blue")
    found = ["a blue thing", "a red and blue thing", "a green thing"]
    expect(ranking(page, "Closest texts").locator(".words")).to_have_text(found)
    expect(page.locator("#announcer")).to_have_text("Selected: blue. Closest: a blue thing, 1.000.")
    expect(page.locator("#matrix td.cell")).to_have_count(4 * 4 - 4)
    ranking(page, "Closest texts").last.click()
    expect(page.locator("#selected .subject")).to_contain_text("a green thing")
    expect(page.locator("#map .thread")).to_have_count(1)


def test_a_model_of_texts_has_no_place_for_images(page: Page, service: str) -> None:
    page.goto(f"{service}/texts/")
    expect(page.locator("#status")).to_have_text("Ready")
    for kind in ("paste", "drop"):
        page.evaluate(BRING_IN, [kind, list(image("red")["buffer"])])
    add(page, ["one", "two", "three"], [])

    expect(page.locator("#map .point")).to_have_count(3)
    expect(page.locator("main img, #tray li")).to_have_count(0)
    assert not re.search(
        r"picture|\bimages?\b|clip(?!-service)", page.inner_text("main"), re.IGNORECASE
    )
    for heading in (page.title(), page.inner_text("h1")):
        assert "clip" not in heading.lower()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_fits_its_window_and_every_number_can_be_read(
    browser: Browser, service: str, size: str, theme: Any
) -> None:
    with watching(browser, viewport=SIZES[size], color_scheme=theme) as page:
        page.goto(f"{service}/drawn/")
        expect(page.locator("#map .point").first).to_be_visible()
        page.screenshot(path=SHOTS / f"{size}-{theme}.png")
        page.screenshot(path=SHOTS / f"{size}-{theme}-whole.png", full_page=True)

        width = page.evaluate("document.documentElement.scrollWidth")
        assert width == SIZES[size]["width"]
        assert page.evaluate(LOWEST_CONTRAST) >= 4.5


def test_a_file_keeps_its_name_where_a_sample_is_the_same_image(page: Page, service: str) -> None:
    page.goto(f"{service}/demo/")
    expect(header(page, "drawn sample 1")).to_be_visible()
    same = plain(COLOURS["red"], (64, 64))
    add(page, [], [{"name": "holiday.png", "mimeType": "image/png", "buffer": same}])

    expect(header(page, "holiday.png")).to_be_visible()
    expect(header(page, "drawn sample 1")).to_have_count(0)
    expect(page.locator("#matrix td.cell")).to_have_count(3 * 3)


def test_results_survive_a_reload_until_they_are_forgotten(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    add(page, ["a blue thing", "a red thing"], [image("red"), image("blue")])
    header(page, "a red thing").click()
    page.wait_for_timeout(500)  # it is written a moment later
    page.reload()

    expect(page.locator("#matrix td.cell")).to_have_count(2 * 2)
    expect(page.locator("#selected .subject")).to_contain_text("a red thing")
    expect(ranking(page, "Closest images").first).to_contain_text("red.png")
    add(page, ["a green thing"], [])  # with a number of its own
    expect(page.locator("#matrix th[scope=row] .face")).to_have_text(["T1", "T2", "T3"])
    assert len(json.loads(copied(page, "Copy vector", within="#selected"))) == 4
    page.get_by_role("button", name="Forget all").click()
    for place in ("#map", "#selected", "#request", "#clear", "#forget"):
        expect(page.locator(place)).to_be_hidden()
    page.reload()
    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#matrix td.cell, #map .point")).to_have_count(0)


def test_results_of_another_model_are_not_brought_back(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    add(page, ["one", "two"], [])
    page.wait_for_timeout(500)
    page.route("**/meta", lambda route: route.fulfill(json=another_model(route.fetch().json())))
    page.reload()

    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#model")).to_have_text("another")
    expect(page.locator("#matrix td.cell")).to_have_count(0)


def another_model(meta: dict[str, Any]) -> dict[str, Any]:
    return {"service": {**meta["service"], "model": "another"}}


def test_on_a_phone_what_was_added_comes_into_sight(browser: Browser, service: str) -> None:
    with watching(browser, viewport=SIZES["phone"]) as page:
        page.goto(f"{service}/plain/")
        add(page, [f"text {number}" for number in range(30)], [])
        add(page, ["the last one"], [])

        expect(page.locator("th[scope=row]", has_text="the last one")).to_be_in_viewport()


def folder_of(root: Path) -> Path:
    (root / "trip" / "day 2").mkdir(parents=True)
    for place, colour in (("red", "red"), ("green", "green"), ("day 2/blue", "blue")):
        (root / "trip" / f"{place}.png").write_bytes(image(colour)["buffer"])
    (root / "trip" / "broken.png").write_bytes(b"no picture")
    (root / "trip" / "notes.txt").write_text("no image")
    return root / "trip"


def test_a_folder_is_searched_by_a_sentence_and_by_an_image(
    page: Page, service: str, tmp_path: Path
) -> None:
    page.goto(f"{service}/drawn/")
    page.locator("#tabs").get_by_text("Gallery").click()
    expect(page.locator("main")).to_be_hidden()
    page.get_by_label("Choose a folder").set_input_files(folder_of(tmp_path))
    tiles = page.locator("#album .name")
    expect(page.locator("#album-status")).to_have_text("4 of 4 images read, 1 failed: not an image")
    expect(tiles).to_have_count(3)

    page.get_by_label("Sentence to search by").fill("a blue thing")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(tiles.first).to_have_text("trip/day 2/blue.png")
    expect(page.locator("#announcer")).to_contain_text("Closest to a blue thing: trip/day 2/blue")
    page.screenshot(path=SHOTS / "gallery.png", full_page=True)
    page.get_by_label("Image to search by").set_input_files([image("green")])
    expect(tiles.first).to_have_text("trip/green.png")
    page.locator("#album button", has_text="trip/red.png").click()
    expect(tiles.first).to_have_text("trip/red.png")
    page.evaluate(BRING_IN, ["drop", list(image("red")["buffer"])])
    expect(tiles).to_have_count(4)
    page.get_by_role("button", name="Forget the folder").click()
    expect(tiles).to_have_count(0)


def test_each_tab_is_taken_in_each_look(browser: Browser, service: str, tmp_path: Path) -> None:
    take_views(browser, f"{service}/demo/", tmp_path)

    corners = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as shot:
            corners[path.name] = shot.getpixel((1, shot.height - 1))
    assert corners.keys() == {
        f"{tab}-{look}.png"
        for tab in ("compare", "gallery", "live")
        for look in ("light", "dark", "phone")
    }
    assert corners["compare-light.png"] != corners["compare-dark.png"]


# --- the service itself


def test_metrics_are_shown_while_they_change(browser: Browser, tmp_path: Path) -> None:
    slow_service = (sys.executable, "-m", "tests.slow_service")
    with running(tmp_path / "log", slow_service) as service, watching(browser) as page:
        page.goto(f"http://127.0.0.1:{service.port}/#live")
        gauge = page.locator("#gauges > div")
        expect(gauge).to_have_count(9)
        known = gauge.filter(has_text="Known already").locator("dd")
        expect(known).not_to_contain_text("%")  # no request, no share
        for number in range(20):
            service.vectorize(texts=[f"text {number}", "known"])
        service.vectorize(texts=1)

        row = page.locator("#by-endpoint tbody tr")
        expect(row).to_contain_text("/vectorize")
        expect(row.locator("td").nth(1)).to_have_text("21")
        expect(row.locator("td").nth(2)).to_have_text("1")
        expect(gauge.filter(has_text="Half of the answers")).to_contain_text(" ms")
        expect(known).to_have_text(re.compile(r"^\d\d %$"))  # of 40 texts 21 are different
        expect(gauge.filter(has_text="Items in a pass")).to_contain_text(".")
        page.screenshot(path=SHOTS / "metrics.png", full_page=True)
        page.reload()
        expect(page.locator("#live")).to_be_visible()
        expect(page.locator("main")).to_be_hidden()


def test_with_tokens_the_browser_asks_for_one_and_the_page_works(
    browser: Browser, tmp_path: Path
) -> None:
    slow_service = (sys.executable, "-m", "tests.slow_service")
    credentials: Any = {"username": "anyone", "password": "second"}
    with (
        running(
            tmp_path / "log", slow_service, AUTHENTICATION_ALLOWED_TOKENS="first,second"
        ) as service,
        watching(browser, http_credentials=credentials) as page,
    ):
        page.goto(f"http://127.0.0.1:{service.port}/")
        add(page, ["one", "two"], [])
        expect(header(page, "one").first).to_be_visible()
        expect(page.locator("#throughput")).to_contain_text("items/s")


def run_by(page: Page, language: str, code: str) -> list[list[float]]:
    """Run what the page copied, and return its vectors."""
    if language == "JavaScript":
        return page.evaluate(f"async () => {{ {code}; return vectors; }}")  # type: ignore[no-any-return]
    program = [sys.executable, "-c", f"{code}\nprint(json.dumps(vectors))"]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    return json.loads(output)  # type: ignore[no-any-return]


def test_the_copied_code_gets_the_vectors_of_its_interface(
    browser: Browser, tmp_path: Path
) -> None:
    text = 'it\'s "red" \\ $HOME `é` 🟥'
    slow_service = (sys.executable, "-m", "tests.slow_service")
    with running(tmp_path / "log", slow_service) as service, watching(browser) as page:
        page.goto(f"http://127.0.0.1:{service.port}/")
        add(page, [text], [image("red")])
        red = base64.b64encode(image("red")["buffer"]).decode()
        _, answer = service.vectorize(texts=[text], images=[red])
        as_they_are = np.array([*answer["textVectors"], *answer["imageVectors"]])
        lengths = np.linalg.norm(as_they_are, axis=1, keepdims=True)
        for interface, vectors in (("Weaviate", as_they_are), ("OpenAI", as_they_are / lengths)):
            page.locator("#interface").get_by_text(interface).click()
            for language in ("Python", "JavaScript"):
                page.locator("#language").get_by_text(language).click()
                expect(page.locator("#code")).to_contain_text("… 1 kB …")
                code = copied(page, f"Copy {language}", within="#request")
                np.testing.assert_allclose(run_by(page, language, code), vectors, rtol=1e-5)


def test_the_demo_service_finds_each_drawn_sample_by_its_caption(
    browser: Browser, tmp_path: Path
) -> None:
    captions = [entry["caption"] for entry in json.loads((SAMPLES / "samples.json").read_text())]
    with (
        running(tmp_path / "log", MODELS_DIR=DEMO_MODELS) as service,
        watching(browser, viewport=SIZES["desk"]) as page,
    ):
        answer = page.goto(f"http://127.0.0.1:{service.port}/")
        assert answer
        assert answer.headers["content-security-policy"] == load_page()[1]
        expect(page.locator("#matrix td.cell")).to_have_count(len(captions) ** 2)
        for number, caption in enumerate(captions, start=1):
            header(page, caption).click()
            expect(ranking(page, "Closest images").first).to_contain_text(f"sample {number}")
        for stage in ("read", "encode", "serialize"):
            expect(page.locator("#timing")).to_contain_text(f"{stage} ")
        expect(page.locator("#throughput")).to_contain_text("items/s")
        page.screenshot(path=SHOTS / "service.png", full_page=True)


def test_log_meta_and_page_say_the_same_of_a_refused_precision(
    browser: Browser, tmp_path: Path
) -> None:
    lesser = {"PRECISION": "bfloat16", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    settings: dict[str, Any] = {"MODELS_DIR": DEMO_MODELS, **lesser}
    with (
        running(tmp_path / "log", **settings) as service,
        watching(browser) as page,
    ):
        page.goto(f"http://127.0.0.1:{service.port}/")
        said = service.request("GET", "/meta")[1]["service"]["precision_refused"]
        assert said.startswith("PRECISION=bfloat16: this CPU has no instructions")
        expect(page.locator("#refused")).to_be_visible()
        expect(page.locator("#refused")).to_have_text(said)
        expect(page.locator("#facts")).to_contain_text("float32, openvino")
        assert said in service.log.read_text()


def test_the_page_says_where_vectors_are_kept(browser: Browser, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/kept"
    settings: dict[str, Any] = {"MODELS_DIR": DEMO_MODELS, "VECTOR_CACHE_URL": url}
    with running(tmp_path / "log", **settings) as service, watching(browser) as page:
        page.goto(f"http://127.0.0.1:{service.port}/")
        expect(page.locator("#facts")).to_contain_text(f"Vectors kept in{url}")
        expect(page.locator("#facts")).to_contain_text("connected")


def test_the_service_of_a_text_model_finds_the_same_text(browser: Browser, tmp_path: Path) -> None:
    with (
        running(tmp_path / "log", MODELS_DIR=GOLDEN_TEXTS / "bert") as service,
        watching(browser, viewport=SIZES["desk"]) as page,
    ):
        page.goto(f"http://127.0.0.1:{service.port}/")
        add(page, ["THE LAKE AT DAWN", "bread with butter", "a train to the sea"], [])
        add(page, ["the lake at dawn"], [])  # the same to a model that reads no capitals
        expect(ranking(page, "Closest texts").first).to_contain_text("THE LAKE AT DAWN")
        expect(ranking(page, "Closest texts").first).to_contain_text("1.000")
        expect(page.get_by_text("Choose images")).to_be_hidden()
        expect(page.locator("#selected")).not_to_contain_text("Longer than the model reads")
        add(page, ["bread", "bread and butter " * 200], [])
        header(page, "bread and butter " * 200).first.click()
        expect(page.locator("#selected")).to_contain_text("Longer than the model reads")
        page.screenshot(path=SHOTS / "texts.png", full_page=True)


# --- several models


def cosines_of(vectors: list[list[float]]) -> list[str]:
    """The cosines of all pairs, row by row, as the page shows them."""
    units = [np.array(vector) / np.linalg.norm(vector) for vector in vectors]
    pairs = [(a, b) for a in range(len(units)) for b in range(len(units)) if a != b]
    return [shown(units[a] @ units[b]) for a, b in pairs]


def test_a_model_is_chosen_and_two_are_compared_on_the_same_inputs(
    page: Page, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    root.mkdir()
    rerankers = {name: GOLDEN_RERANKERS / name for name in ("bert", "roberta")}
    folders = {"clip": DEMO_MODELS, "minilm": GOLDEN_TEXTS / "bert", **rerankers}
    for name, folder in folders.items():
        (root / name).symlink_to(folder)
    with running(tmp_path / "log", MODELS_DIR=root, DEFAULT_MODEL="clip,bert") as service:
        url, texts = f"http://127.0.0.1:{service.port}", ["a red circle", "Bread.", "a boat"]
        page.goto(f"{url}/")
        models, second = page.get_by_label("Choose a model"), page.get_by_label("Second model")
        expect(models.locator("option")).to_have_text(sorted(folders))
        expect(models).to_have_value("clip")
        models.select_option("minilm")
        expect(page).to_have_url(f"{url}/m/minilm/")
        expect(page.locator("#facts")).to_contain_text("minilm")
        expect(models).to_have_value("minilm")
        add(page, texts, [])
        expect(page.locator("#matrix-beside")).to_be_hidden()
        second.select_option("clip")
        for name, place in (("minilm", "#matrix"), ("clip", "#matrix-beside")):
            answer = service.request("POST", f"/m/{name}/vectorize", {"texts": texts})[1]
            expect(page.locator(f"{place} td.cell")).to_have_text(cosines_of(answer["textVectors"]))
        page.screenshot(path=SHOTS / "two-models.png", full_page=True)
        add(page, ["one more"], [])
        expect(page.locator("#matrix-beside td.cell")).to_have_count(4 * 3)
        second.select_option("none")
        expect(page.locator("#matrix-beside")).to_be_hidden()

        page.goto(f"{url}/m/bert")  # without a slash
        expect(page).to_have_url(f"{url}/m/bert/")
        expect(second.locator("option")).to_have_text(["none", "roberta"])
        second.select_option("roberta")
        page.get_by_role("textbox", name="Query").fill("How do I make bread?")
        page.get_by_role("textbox", name="Documents").fill("\n".join(texts))
        page.get_by_role("button", name="Rank them").click()
        body = {"query": "How do I make bread?", "documents": texts}
        for name, title in (("bert", "After"), ("roberta", "After, by roberta")):
            scores = service.request("POST", f"/m/{name}/rerank", body)[1]["scores"]
            ranked = sorted(scores, key=lambda one: -one["score"])
            expect(page.get_by_role("list", name=title, exact=True).locator("b")).to_have_text(
                [shown(one["score"]) for one in ranked]
            )
