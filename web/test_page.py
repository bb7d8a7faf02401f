"""The debug page in a real browser: against a stand-in whose ranking is known, and the service.

Screenshots go to build/page-shots, which git ignores: look at them after a change of the page.
"""

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from tests.pictures import plain
from web.page import SAMPLES, load_page

CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip(
        f"NO BROWSER: {CHROMIUM} is missing (apt-get install chromium), so the page is not tested",
        allow_module_level=True,
    )

from playwright.sync_api import (  # noqa: E402 - needed only where there is a browser
    Browser,
    FilePayload,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

pytestmark = pytest.mark.timeout(120)  # playwright's own time-outs do not reach all it does
ROOT = Path(__file__).parent.parent
DEMO_MODELS = ROOT / "demo" / "models"
SHOTS = ROOT / "build" / "page-shots"
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
SIZES = {"desk": ViewportSize(width=1280, height=800), "phone": ViewportSize(width=375, height=812)}
COLOURS = {"red": (220, 30, 30), "green": (20, 160, 60), "blue": (30, 60, 210)}
METRICS = """\
# TYPE clip_requests_total counter
clip_requests_total{code="200"} 4
clip_items_total{modality="text"} 7
clip_items_total{modality="image"} 5
clip_queue_items{lane="text"} 1
clip_queue_items{lane="image"} 2
"""


# --- a service that answers at once, and whose ranking is known


def text_vector(text: str) -> list[float]:
    return [*(float(name in text) for name in COLOURS), 0.3]


def image_vector(image_base64: str) -> list[float]:
    with Image.open(io.BytesIO(base64.b64decode(image_base64))) as image:
        pixel: Any = image.convert("RGB").getpixel((0, 0))
    return [*(channel / 255 for channel in pixel), 0.3]


async def answer_vectorize(request: Request) -> Response:
    wanted = await request.json()
    answer: dict[str, list[list[float]]] = {
        "textVectors": [text_vector(text) for text in wanted["texts"]],
        "imageVectors": [],
    }
    for number, image in enumerate(wanted["images"]):
        try:
            answer["imageVectors"].append(image_vector(image))
        except UnidentifiedImageError:
            return JSONResponse({"error": f"images[{number}]: not an image"}, 422)
    timing = "queue;dur=0.4, decode;dur=1.5, preprocess;dur=0.7, encode;dur=3.2, serialise;dur=0.1"
    return JSONResponse(answer, headers={"Server-Timing": timing})


def stand_in(samples: Path | None) -> Starlette:
    """Serve the page as app.py does; with samples, as the demo model's service."""

    async def answer_page(_request: Request) -> Response:
        content, policy = load_page(samples or Path("none"))
        headers = {"Content-Security-Policy": policy}
        return Response(content, headers=headers, media_type="text/html")

    async def answer_meta(_request: Request) -> Response:
        service = {
            "name": "multi2vec-clip-service",
            "version": "0.1.0",
            "family": "transformers-clip",
            "dimensions": 4,
            "parameters": 151_277_313,
            "device": "cpu",
            "precision": "float32",
            "text_mode": "trained",
            "demo": samples is not None,
        }
        return JSONResponse({"service": service})

    async def answer_metrics(_request: Request) -> Response:
        return PlainTextResponse(METRICS) if samples else Response(status_code=404)

    async def answer_ready(_request: Request) -> Response:
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/", answer_page),
            Route("/meta", answer_meta),
            Route("/metrics", answer_metrics),
            Route("/.well-known/ready", answer_ready),
            Route("/vectorize", answer_vectorize, methods=["POST"]),
        ]
    )


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


def draw_samples(folder: Path) -> Path:
    for name, colour in COLOURS.items():
        (folder / f"{name}.png").write_bytes(plain(colour, (64, 64)))
    entries = [{"file": f"{name}.png", "caption": f"something <{name}>"} for name in COLOURS]
    (folder / "samples.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two stand-ins below one address: /demo/ has samples and metrics, /plain/ has neither."""
    own = draw_samples(tmp_path_factory.mktemp("samples"))
    drawn = SAMPLES if (SAMPLES / "samples.json").is_file() else own
    mounts = {"/plain": None, "/demo": own, "/drawn": drawn}
    routes = [Mount(path, stand_in(samples)) for path, samples in mounts.items()]
    with serving(Starlette(routes=routes)) as url:
        yield url


# --- a browser, and a page that watches what it does


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


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


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with watching(browser) as page:
        yield page


def picture(name: str) -> FilePayload:
    content = plain(COLOURS[name], (16, 16))
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": content}


def add(page: Page, texts: list[str], pictures: list[FilePayload]) -> None:
    if texts:
        page.get_by_role("textbox", name="Texts").fill("\n".join(texts))
        page.get_by_role("button", name="Add texts").click()
        expect(page.get_by_role("textbox", name="Texts")).to_have_value("")
    if pictures:
        page.get_by_label("Choose pictures").set_input_files(pictures)
    for file in pictures:  # seen once it is read
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


# --- tests


def test_says_what_model_is_served_and_that_it_is_ready(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")

    expect(page.locator("#status")).to_have_text("Ready")
    for fact in ("transformers-clip", "151M parameters", "cpu", "float32", "trained"):
        expect(page.locator("#facts")).to_contain_text(fact)
    expect(page.locator("#throughput")).to_have_count(0)


def test_ranks_the_right_picture_first(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    add(page, ["a blue thing", "a red thing"], [picture("red"), picture("green"), picture("blue")])

    header(page, "a red thing").click()
    expect(ranking(page, "Closest pictures").first).to_contain_text("red.png")
    header(page, "a blue thing").click()
    expect(ranking(page, "Closest pictures").first).to_contain_text("blue.png")
    header(page, "blue.png").click()
    expect(ranking(page, "Closest texts").first).to_contain_text("a blue thing")
    expect(page.locator("#matrix td.cell")).to_have_count(2 * 3)
    page.get_by_text("All pairs").click()
    expect(page.locator("#matrix td.cell")).to_have_count(5 * 5 - 5)


def test_a_broken_picture_shows_the_services_sentence_and_spares_the_others(
    page: Page, service: str
) -> None:
    page.goto(f"{service}/plain/")
    broken: FilePayload = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    add(page, ["a red thing"], [picture("red"), broken])

    expect(page.locator("#tray .error")).to_have_text("images[1]: not an image")
    expect(page.locator("#tray li")).to_contain_text("broken.png")
    expect(page.locator("#matrix td.cell")).to_have_count(1)
    page.get_by_role("button", name="Dismiss broken.png").click()
    expect(page.locator("#tray li")).to_have_count(0)


# Bring a picture in as a browser does when someone pastes or drops a file.
BRING_IN = """([kind, raw]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(raw)], kind + ".png"));
    const init = { clipboardData: data, dataTransfer: data, bubbles: true, cancelable: true };
    const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
    document.body.dispatchEvent(new Kind(kind, init));
}"""


def test_a_pasted_and_a_dropped_picture_are_added(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    for kind, colour in (("paste", "red"), ("drop", "blue")):
        page.evaluate(BRING_IN, [kind, list(picture(colour)["buffer"])])

    expect(header(page, "paste.png").first).to_be_visible()
    expect(header(page, "drop.png").first).to_be_visible()


def test_the_copied_curl_command_gets_the_same_answer(page: Page, service: str) -> None:
    page.goto(f"{service}/plain/")
    add(page, ['it\'s "red" $HOME', "blue"], [picture("red")])

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


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until the target has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if target.evaluate("node => node === document.activeElement"):
            return
    pytest.fail("the Tab key never reaches it")


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
    const contrasts = Array.from({ length: 101 }, (_, percent) => {
        cell.style.setProperty("--t", percent / 100);
        const style = getComputedStyle(cell);
        const [a, b] = [luminance(style.color), luminance(style.backgroundColor)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
    return Math.min(...contrasts);
}"""


def test_the_policy_allows_the_pages_own_code_only() -> None:
    content, policy = load_page()

    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert content.count(b'id="samples"') == 1
    assert not re.search(rb'(src|href)="(https?:)?//', content)


# --- the service itself


def start_service(stack: ExitStack, log: Path) -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = str(probe.getsockname()[1])
    settings = {"MODELS_DIR": str(DEMO_MODELS), "PORT": port, "HOST": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=stack.enter_context(log.open("w")),
        stderr=subprocess.STDOUT,
    )
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    wait_until_ready(process, f"http://127.0.0.1:{port}", log)
    return f"http://127.0.0.1:{port}"


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(480):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/.well-known/ready").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.25)
    pytest.fail(f"not ready after two minutes: {log.read_text()}")


@pytest.mark.skipif(not any(DEMO_MODELS.glob("*")), reason="demo/models holds no model yet")
def test_the_demo_service_finds_each_drawn_sample_by_its_caption(
    browser: Browser, tmp_path: Path
) -> None:
    captions = [entry["caption"] for entry in json.loads((SAMPLES / "samples.json").read_text())]
    with ExitStack() as stack:
        url = start_service(stack, tmp_path / "service.log")
        page = stack.enter_context(watching(browser, viewport=SIZES["desk"]))
        answer = page.goto(f"{url}/")
        assert answer
        assert answer.headers["content-security-policy"] == load_page()[1]
        expect(page.locator("#matrix td.cell")).to_have_count(len(captions) ** 2)
        for number, caption in enumerate(captions, start=1):
            header(page, caption).click()
            expect(ranking(page, "Closest pictures").first).to_contain_text(f"sample {number}")
        page.screenshot(path=SHOTS / "service.png", full_page=True)
