"""Builds the images and runs them, as people do: `make test-images`; BUILDER=docker by default.

Weights come from a small hub on loopback. It takes half an hour and several gigabytes, so it is no
part of `make test`. Any BUILDER will do that knows docker's `build`, `run`, `save` and `tag`.
TORCH_INDEX_URL and PYTHON_IMAGE, where they are set, take the place of the Dockerfiles' own. At the
end it prints a table.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config import VERSION
from tests.certificates import certificate_in
from tests.golden_cases import GOLDEN
from tests.golden_rerankers import GOLDEN_RERANKERS
from tests.golden_texts import GOLDEN_TEXTS
from tests.hub_models import small_hub
from tests.hub_server import Hub, serving
from tests.service import ROOT, Service, free_port, wait_until_ready

BUILDER = shlex.split(os.environ.get("BUILDER", "docker"))
CUSTOM = "semitechnologies/multi2vec-clip:custom"
CUSTOM_OF_THE_DOCUMENTATION = "semitechnologies/transformers-inference:custom"
CUSTOM_OF_RERANKERS = "semitechnologies/reranker-transformers:custom"
STANDARD = "multi2vec-clip-service:standard"
CUDA = "multi2vec-clip-service:standard-cuda"
IN_8_BITS = "multi2vec-clip-service:standard-int8"
SERVING = "multi2vec-clip-service:serving"
CLIP = {"CLIP_MODEL_NAME": "clip-ViT-B-32", "TEXT_MODEL_NAME": "clip-ViT-B-32"}
# Word for word what the documentation prints, but for the first line's name in the second.
TWO_LINES_BY_NAME = f"""FROM {CUSTOM}
RUN CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
"""
TWO_LINES_BY_FOLDER = f"""FROM {CUSTOM_OF_THE_DOCUMENTATION}
COPY ./my-text-model /app/models/text
COPY ./my-clip-model /app/models/clip
"""
TWO_LINES_OF_TEXTS_BY_NAME = f"""FROM {CUSTOM_OF_THE_DOCUMENTATION}
RUN MODEL_NAME=distilroberta-base ./download.py
"""
TWO_LINES_OF_TEXTS_BY_FOLDER = f"""FROM {CUSTOM_OF_THE_DOCUMENTATION}
COPY ./my-model /app/models/model
"""
TWO_LINES_OF_A_RERANKER_BY_NAME = f"""FROM {CUSTOM_OF_RERANKERS}
RUN MODEL_NAME=cross-encoder/ms-marco-MiniLM-L-6-v2 ./download.py
"""
TWO_LINES_OF_A_RERANKER_BY_FOLDER = f"""FROM {CUSTOM_OF_RERANKERS}
COPY ./my-reranker /app/models/model
"""
# A private model in a small image.
PRIVATE = (ROOT / "custom.Dockerfile").read_text("utf-8")
UNCONVERTED = f"""FROM {SERVING}
COPY ./my-text-model /app/models/text
COPY ./my-clip-model /app/models/clip
"""
OURS = ("app/", "venv/")  # where the Dockerfiles write


@dataclass
class Measured:
    """What is known of an image.

    Attributes:
        build_s: how long it took to build, on top of what was there.
        size_mb: on disk, beside its base and the weights.
        ready_s: from its start to the first 204.
        memory_mb: resident, after it was asked.
    """

    build_s: float
    size_mb: int = 0
    ready_s: float = 0
    memory_mb: int = 0


measured: dict[str, Measured] = {}


def builder(*words: str) -> float:
    """Run the builder, whose output is ours; return the seconds that it took."""
    print("+", *words, flush=True)
    started_s = time.perf_counter()
    subprocess.run([*BUILDER, *words], check=True, cwd=ROOT)
    return time.perf_counter() - started_s


def build(tag: str, folder: Path, *options: str) -> None:
    """Build an image; the hub on loopback is within reach."""
    for name in ("TORCH_INDEX_URL", "PYTHON_IMAGE"):
        if (value := os.environ.get(name)) is not None:
            options = ("--build-arg", f"{name}={value}", *options)
    taken_s = builder("build", "--network=host", *options, "-t", tag, str(folder))
    measured.setdefault(tag, Measured(taken_s))


def build_standard(tag: str, folder: Path, hub: Hub, target: str = "service", **more: str) -> None:
    """Build an image of `Dockerfile`, with a model in it, and with more build arguments."""
    arguments = {**CLIP, "HF_ENDPOINT": hub.url, **more}
    pairs = [("--build-arg", f"{name}={value}") for name, value in arguments.items()]
    options = [*itertools.chain(*pairs), "--target", target, "-f", str(folder / "Dockerfile")]
    build(tag, folder, *options)


def build_several(hub: Hub) -> list[str]:
    """Build `my/models` as several.Dockerfile says; return the names of its models.

    Its first lines have the commands; here the weights come from the hub.
    """
    text = (ROOT / "several.Dockerfile").read_text("utf-8")
    names = re.findall(r"^COPY --from=(\S+)", text, re.M)
    assert names, "several.Dockerfile copies no model"
    nothing = dict.fromkeys(CLIP, "")
    for tag, given in re.findall(r"^#   docker build -t (my/\S+) (--build-arg .+) \.$", text, re.M):
        arguments = dict(pair.split("=", 1) for pair in given.split() if "=" in pair)
        build_standard(tag, ROOT, hub, **{**nothing, **arguments})
    build(SERVING, ROOT, "--target", "serving")
    build("my/models", ROOT, "-f", str(ROOT / "several.Dockerfile"))
    return names


def output_of(image: str, script: str, *options: str) -> str:
    """Run a line of shell in an image, and return what it prints."""
    command = [*BUILDER, "run", "--rm", *options, image, script]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return answer.stdout


def size_mb(image: str) -> int:
    """Measure what lies in an image beside its base and the weights."""
    printed = output_of(image, "du -sk --exclude=/app/models /app /venv")
    return sum(int(line.split()[0]) for line in printed.splitlines()) * 1024 // 1_000_000


def assert_nothing_is_there_twice(image: str, scratch: Path) -> None:
    """Look into the layers: none deletes or replaces what an earlier one of ours wrote."""
    archive = scratch / "image.tar"
    builder("save", "-o", str(archive), image)
    written: Counter[str] = Counter()
    with tarfile.open(archive) as layers:
        for member in layers:
            if member.isfile() and not member.name.endswith(".json"):
                written.update(files_of(layers, member))
    archive.unlink()
    ours = {name: count for name, count in written.items() if name.startswith(OURS)}
    assert len(ours) > 1000, f"{image}: its layers could not be read"
    assert not [name for name in ours if Path(name).name.startswith(".wh.")]
    assert not [name for name, count in ours.items() if count > 1]


def files_of(layers: tarfile.TarFile, member: tarfile.TarInfo) -> list[str]:
    """Name the files of a layer; of what is none, nothing."""
    try:
        with tarfile.open(fileobj=layers.extractfile(member)) as layer:
            return [one.name.removeprefix("./") for one in layer if not one.isdir()]
    except tarfile.ReadError:
        return []


def assert_weights_are_int8(image: str) -> None:
    """Look for converted models: there are some, and none has weights of another kind."""
    said = output_of(image, "cat /app/models/converted/*/model.json | grep '\"weights\":'")
    assert {line.strip(" ,") for line in said.splitlines()} == {'"weights": "int8"'}, said


def assert_ends_with(image: str, sentence: str, *options: str) -> None:
    """Start what cannot start: the log says what to do."""
    said = output_of(image, "exec python3 app.py 2>&1", *options)
    found = re.search(rf".*{sentence}$", said, re.MULTILINE)
    assert found, said
    print(f"  {image} {' '.join(options)}: {found[0]}", flush=True)


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
            measured[image].ready_s = measured[image].ready_s or ready_s
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def smoke_test(service: Service) -> None:
    """Ask what Weaviate and people ask."""
    url = f"http://localhost:{service.port}"
    subprocess.run([sys.executable, "smoke_test.py", url], check=True, cwd=ROOT)


def stop_during_requests(service: Service, path: str) -> None:
    """Send the signal that `docker stop` sends while 16 requests are in flight."""
    texts = [f"text {number}" for number in range(100)]

    def ask(first: int) -> int:
        bodies = {
            "/vectorize": {"texts": texts[first:]},
            "/rerank": {"query": "text", "documents": texts[first:]},
        }
        return service.request("POST", path, bodies[path])[0]

    with ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(ask, first) for first in range(16)]
        time.sleep(0.1)
        service.process.send_signal(signal.SIGTERM)
        statuses = [client.result() for client in asked]
    print(f"  stopped during 16 requests: {statuses.count(200)} answered")
    assert statuses == [200] * 16


def try_out(image: str, *options: str, path: str = "/vectorize") -> None:
    """Run an image, ask it, and stop it while it works on requests to `path`."""
    with running(image, *options) as service:
        smoke_test(service)
        measured[image].memory_mb = memory_mb(service)
        stop_during_requests(service, path)


def assert_labels_tell_the_version(image: str) -> None:
    """Compare the image's label with what its program prints."""
    command = [*BUILDER, "image", "inspect", "--format", "{{json .Config.Labels}}", image]
    labels = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert labels["org.opencontainers.image.version"] == VERSION
    assert output_of(image, "exec python3 app.py --version").strip() == VERSION


def try_tls_and_tokens(image: str, scratch: Path) -> None:
    """Run an image with a certificate, a file of tokens and an address of its own.

    Its HEALTHCHECK must find it healthy, and it must turn away a request without a token.
    """
    files = scratch / "files"
    files.mkdir()
    _, key = certificate_in(files)
    key.chmod(0o644)  # the container's user is another
    (files / "tokens").write_text("first,second\n")
    port = free_port()
    settings = {
        "HOST": "127.0.0.2",
        "PORT": str(port),
        "SSL_CERTFILE": "/files/tls.crt",
        "SSL_KEYFILE": "/files/tls.key",
        "AUTHENTICATION_ALLOWED_TOKENS_FILE": "/files/tokens",
    }
    options = itertools.chain(*(("-e", f"{name}={value}") for name, value in settings.items()))
    command = [*BUILDER, "run", "--detach", "--network=host", f"--volume={files}:/files:ro"]
    started = subprocess.run([*command, *options, image], stdout=subprocess.PIPE, check=True)
    container = started.stdout.decode().strip()
    try:
        health = [*BUILDER, "inspect", "--format", "{{.State.Health.Status}}", container]
        ends_s = time.monotonic() + 60
        while subprocess.run(health, stdout=subprocess.PIPE, check=True).stdout != b"healthy\n":
            assert time.monotonic() < ends_s, "HEALTHCHECK does not find it healthy"
            time.sleep(1)
        ask = [sys.executable, "smoke_test.py", "--insecure"]
        for login, code in (("", 1), ("any:second@", 0)):
            url = f"https://{login}127.0.0.2:{port}"
            assert subprocess.run([*ask, url], cwd=ROOT, check=False).returncode == code
    finally:
        builder("rm", "--force", container)
    print(f"  {image}: healthy by TLS on 127.0.0.2, and asks for a token", flush=True)


def memory_mb(service: Service) -> int:
    """Read what the service says of its own memory."""
    (resident,) = re.findall(r"^process_resident_memory_bytes (\S+)", service.metrics(), re.M)
    return round(float(resident) / 1_000_000)


def changed_code(scratch: Path) -> Path:
    """Return a copy of what the images are built from, with a line of code more."""
    copy = scratch / "changed"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "tests", "bench", "models")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    with (copy / "vectorizer.py").open("a") as code:
        code.write("\n# changed\n")
    return copy


def two_lines(scratch: Path, text: str) -> Path:
    """Return a folder with a two-line Dockerfile and the models that it may copy."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    (folder / "Dockerfile").write_text(text)
    for part in ("clip", "text"):
        shutil.copytree(GOLDEN / "sentence_transformers" / part, folder / f"my-{part}-model")
    shutil.copytree(GOLDEN_TEXTS / "mpnet/model", folder / "my-model")
    shutil.copytree(GOLDEN_RERANKERS / "bert/model", folder / "my-reranker")
    return folder


def table() -> str:
    """Show what was measured, in Markdown."""
    rows = ["| image | MB beside base and weights | built in | ready after | memory |"]
    rows += ["|---|---|---|---|---|"]
    for image, one in measured.items():
        ran = f"{one.ready_s:.1f} s | {one.memory_mb} MB" if one.memory_mb else " | "
        rows.append(f"| {image} | {one.size_mb} | {one.build_s:.0f} s | {ran} |")
    return "\n".join(rows)


def main() -> None:
    """Build and try everything."""
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        with serving(small_hub(scratch)) as hub:
            run_checks(scratch, hub)
    print(table())
    print("All images were built and answer as they should.")


def run_checks(scratch: Path, hub: Hub) -> None:
    """The order of it: bases first, then what is made of them."""
    try_small(scratch, hub)
    try_custom(scratch, hub)
    try_cuda(hub)
    for image, one in measured.items():
        one.size_mb = size_mb(image)


def try_small(scratch: Path, hub: Hub) -> None:
    """The image without torch, and what it cannot do."""
    build_standard(STANDARD, ROOT, hub)
    try_out(STANDARD)
    try_out(STANDARD, "--user=54321:0")
    try_out(STANDARD, "--read-only", "--tmpfs=/tmp")
    assert_nothing_is_there_twice(STANDARD, scratch)
    assert_labels_tell_the_version(STANDARD)
    try_tls_and_tokens(STANDARD, scratch)
    assert_ends_with(STANDARD, "ENABLE_CUDA=1 needs torch.* ends in -cuda", "-e", "ENABLE_CUDA=1")
    assert_ends_with(STANDARD, "RUNTIME=torch and .* ends in -cuda", "-e", "RUNTIME=torch")

    asked = len(hub.asked)
    build_standard(STANDARD, changed_code(scratch), hub)
    assert len(hub.asked) == asked, "changed code fetched weights anew"

    build_standard(IN_8_BITS, ROOT, hub, PRECISION="int8")
    try_out(IN_8_BITS)
    assert_weights_are_int8(IN_8_BITS)


def try_custom(scratch: Path, hub: Hub) -> None:
    """The base for models of one's own, and all that is made of it."""
    build(CUSTOM, ROOT, "--target", "custom")
    builder("tag", CUSTOM, CUSTOM_OF_THE_DOCUMENTATION)
    build("two-lines:folder", two_lines(scratch, TWO_LINES_BY_FOLDER))
    try_out("two-lines:folder")
    build("two-lines:texts-folder", two_lines(scratch, TWO_LINES_OF_TEXTS_BY_FOLDER))
    try_out("two-lines:texts-folder")

    builder("tag", CUSTOM, CUSTOM_OF_RERANKERS)
    build("two-lines:reranker-folder", two_lines(scratch, TWO_LINES_OF_A_RERANKER_BY_FOLDER))
    try_out("two-lines:reranker-folder", path="/rerank")

    build(SERVING, ROOT, "--target", "serving")
    build("private:small", two_lines(scratch, PRIVATE))
    try_out("private:small")
    assert_nothing_is_there_twice("private:small", scratch)
    build("private:unconverted", two_lines(scratch, UNCONVERTED))
    assert_ends_with("private:unconverted", "download.py --convert in the custom image.*")

    with_hub = f"FROM {CUSTOM}\nENV HF_ENDPOINT={hub.url}\n"
    build(CUSTOM, two_lines(scratch, with_hub))
    build("two-lines:name", two_lines(scratch, TWO_LINES_BY_NAME))
    try_out("two-lines:name")
    builder("tag", CUSTOM, CUSTOM_OF_THE_DOCUMENTATION)
    build("two-lines:texts-name", two_lines(scratch, TWO_LINES_OF_TEXTS_BY_NAME))
    try_out("two-lines:texts-name")
    builder("tag", CUSTOM, CUSTOM_OF_RERANKERS)
    build("two-lines:reranker-name", two_lines(scratch, TWO_LINES_OF_A_RERANKER_BY_NAME))
    try_out("two-lines:reranker-name", path="/rerank")


def try_cuda(hub: Hub) -> None:
    """The image for GPUs, by torch on this machine's CPU; without a GPU it says so."""
    build_standard(CUDA, ROOT, hub, target="cuda")
    try_out(CUDA)
    assert_ends_with(CUDA, "ENABLE_CUDA is on, but .*", "-e", "ENABLE_CUDA=1")


if __name__ == "__main__":
    main()
