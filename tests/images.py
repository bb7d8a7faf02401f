"""Builds the images and runs them, as people do: `make test-images`; BUILDER=docker by default.

Weights come from a small hub on loopback. It takes a quarter of an hour and several gigabytes, so
it is no part of `make test`. Any BUILDER will do that knows docker's `build`, `run` and `tag`.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.golden_cases import GOLDEN
from tests.hub_models import small_hub
from tests.hub_server import Hub, serving
from tests.service import ROOT, Service, free_port, wait_until_ready

BUILDER = shlex.split(os.environ.get("BUILDER", "docker"))
CUSTOM = "semitechnologies/multi2vec-clip:custom"
CUSTOM_OF_THE_DOCUMENTATION = "semitechnologies/transformers-inference:custom"
STANDARD = "multi2vec-clip-service:standard"
CLIP = {"CLIP_MODEL_NAME": "clip-ViT-B-32", "TEXT_MODEL_NAME": "clip-ViT-B-32"}
# Word for word what the documentation prints, but for the first line's name in the second.
TWO_LINES_BY_NAME = f"""FROM {CUSTOM}
RUN CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
"""
TWO_LINES_BY_FOLDER = f"""FROM {CUSTOM_OF_THE_DOCUMENTATION}
COPY ./my-text-model /app/models/text
COPY ./my-clip-model /app/models/clip
"""


def builder(*words: str) -> None:
    """Run the builder; its output is ours."""
    print("+", *words, flush=True)
    started_s = time.perf_counter()
    subprocess.run([*BUILDER, *words], check=True, cwd=ROOT)
    print(f"  took {time.perf_counter() - started_s:.0f} s", flush=True)


def build(tag: str, folder: Path, *options: str) -> None:
    """Build an image; the hub on loopback is within reach."""
    builder("build", "--network=host", *options, "-t", tag, str(folder))


def build_standard(folder: Path, hub: Hub) -> None:
    """Build the image with a model in it."""
    arguments = {**CLIP, "HF_ENDPOINT": hub.url}
    pairs = [("--build-arg", f"{name}={value}") for name, value in arguments.items()]
    build(STANDARD, folder, *itertools.chain(*pairs), "-f", str(folder / "Dockerfile"))


@contextmanager
def running(image: str, *options: str) -> Iterator[Service]:
    """Run an image until its service is ready; stop it at the end."""
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*BUILDER, "run", "--rm", "--network=host", *options, "-e", f"PORT={port}", image],
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        service = Service(port, process, log)
        try:
            started_s = time.perf_counter()
            wait_until_ready(service)
            ready_s = time.perf_counter() - started_s
            print(f"  {image} {' '.join(options)}: ready after {ready_s:.1f} s", flush=True)
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def smoke_test(service: Service) -> None:
    """Ask what Weaviate and people ask."""
    url = f"http://localhost:{service.port}"
    subprocess.run([sys.executable, "smoke_test.py", url], check=True, cwd=ROOT)


def stop_during_requests(service: Service) -> None:
    """Send the signal that `docker stop` sends while 16 requests are in flight."""
    texts = [f"text {number}" for number in range(100)]
    with ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(service.vectorize, texts=texts[i:]) for i in range(16)]
        time.sleep(0.1)
        service.process.send_signal(signal.SIGTERM)
        statuses = [client.result()[0] for client in asked]
    print(f"  stopped during 16 requests: {statuses.count(200)} answered")
    assert statuses == [200] * 16


def try_out(image: str, *options: str) -> None:
    """Run an image, ask it, and stop it while it works."""
    with running(image, *options) as service:
        smoke_test(service)
        stop_during_requests(service)


def changed_code(scratch: Path) -> Path:
    """Return a copy of what the images are built from, with a line of code more."""
    copy = scratch / "changed"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "tests", "bench", "models")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    with (copy / "vectorizer.py").open("a") as code:
        code.write("\n# changed\n")
    return copy


def two_lines(scratch: Path, text: str) -> Path:
    """Return a folder with a two-line Dockerfile and the model that it may copy."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    (folder / "Dockerfile").write_text(text)
    for part in ("clip", "text"):
        shutil.copytree(GOLDEN / "sentence_transformers" / part, folder / f"my-{part}-model")
    return folder


def main() -> None:
    """Build and try everything."""
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        with serving(small_hub(scratch)) as hub:
            prove(scratch, hub)
    print("All images were built and answer as they should.")


def prove(scratch: Path, hub: Hub) -> None:
    """The order of it: bases first, then what is made of them."""
    build(CUSTOM, ROOT, "-f", "custom.Dockerfile")
    builder("tag", CUSTOM, CUSTOM_OF_THE_DOCUMENTATION)
    build_standard(ROOT, hub)
    try_out(STANDARD)
    try_out(STANDARD, "--user=54321:0")
    try_out(STANDARD, "--read-only", "--tmpfs=/tmp")

    asked = len(hub.asked)
    build_standard(changed_code(scratch), hub)
    assert len(hub.asked) == asked, "changed code fetched weights anew"

    build("two-lines:folder", two_lines(scratch, TWO_LINES_BY_FOLDER))
    try_out("two-lines:folder")
    with_hub = f"FROM {CUSTOM}\nENV HF_ENDPOINT={hub.url}\n"
    build(CUSTOM, two_lines(scratch, with_hub))
    build("two-lines:name", two_lines(scratch, TWO_LINES_BY_NAME))
    try_out("two-lines:name")


if __name__ == "__main__":
    main()
