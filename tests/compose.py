"""Brings up each compose file but that of a GPU by Docker, asks what runs, and takes it down.

    make test-compose

Weights come from a small hub on loopback. Images that cannot be pulled have stand-ins (see
tests/stand_ins.py): WEAVIATE_BINARY then names Weaviate's program. TORCH_INDEX_URL, where it is
set, takes the place of the Dockerfile's own. It needs Docker with Compose 2.24 or newer and buildx,
20 GB of disk, and a quarter of an hour, so it is no part of `make test`. At the end it prints a
table. Names of trials as arguments run these alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.client import Target
from bench.weaviate import Weaviate
from tests import crowd
from tests.balancer.importer import SENDERS, Import, Imported, objects
from tests.hub_models import small_hub
from tests.hub_server import Hub, serving
from tests.images import build_several
from tests.service import ROOT
from tests.stand_ins import PYTHON, DockerError, check_docker, image_for
from tests.weaviate_imports import count, import_pictures, import_texts, rerank_texts

SERVICE = "multi2vec-clip"
OURS = {SERVICE, "text2vec-transformers", "reranker-transformers", "inference"}
REPLICAS = "deploy/docker-compose.replicas.yml"
IMPORTS = "Weaviate imports and searches"
_STARTS_S = 300
table: list[tuple[str, str, str]] = []


class FreePorts(list[str]):
    """Ports in place of those of another compose file, not beside them."""


yaml.SafeDumper.add_representer(
    FreePorts, lambda dumper, ports: dumper.represent_sequence("!override", ports)
)


class Project:
    """Services that compose files bring up.

    Args:
        files: the compose files, relative to the repository.
        hub: where builds fetch weights.
        folder: where files of the test lie.
        more: what else the test sets, as in a compose file.
        variables: that the compose files need.
    """

    def __init__(
        self, files: list[str], hub: Hub, folder: Path, more: Any = None, **variables: str
    ) -> None:
        self.name = " + ".join(Path(file).name for file in files)
        self._environment = {**os.environ, **variables}
        self._words = ["docker", "compose", "-p", "multi2vec-clip-test"]
        self._words += [word for file in files for word in ("-f", str(ROOT / file))]
        whole = json.loads(self("config", "--format", "json"))
        services: Any = {}
        for name, service in whole["services"].items():
            own = services[name] = dict((more or {}).get(name, {}))
            if "build" in service:
                names = ("PYTHON_IMAGE", "TORCH_INDEX_URL")
                given = {name: os.environ[name] for name in names if name in os.environ}
                arguments = {**given, "HF_ENDPOINT": hub.url}
                own["build"] = {"network": "host", "args": arguments}
            else:
                own["image"] = image_for(service["image"])
            if ports := service.get("ports"):
                own["ports"] = FreePorts([f"127.0.0.1::{port['target']}" for port in ports])
        path = folder / "override.yml"
        secrets = {name: {"file": str(folder / name)} for name in whole.get("secrets", {})}
        path.write_text(yaml.safe_dump({"services": services, "secrets": secrets}))
        self._words += ["-f", str(path)]

    def __call__(self, *words: str) -> str:
        """Run `docker compose`, and return what it prints."""
        command = [*self._words, *words]
        done = subprocess.run(
            command, env=self._environment, stdout=subprocess.PIPE, check=True, cwd=ROOT, text=True
        )
        return done.stdout

    def up(self, *options: str) -> float:
        """Bring it up, or what is missing of it; return the seconds until it was healthy."""
        started_s = time.monotonic()
        self("up", "--detach", "--wait", f"--wait-timeout={_STARTS_S}", *options)
        return time.monotonic() - started_s

    def address(self, service: str, port: int = 8080) -> str:
        """Host and port of this machine where a service answers."""
        return self("port", service, str(port)).strip()

    def target(self, service: str) -> Target:
        """The same for the clients of the bench."""
        return Target.from_url(f"http://{self.address(service)}")

    def containers(self, service: str) -> list[str]:
        """The containers of a service, stopped ones too."""
        return self("ps", "--all", "--quiet", service).split()

    def ask_replica(self, index: int, program: str) -> str:
        """Run a line of Python in a replica."""
        command = ("python3", "-c", program)
        return self("exec", "-T", f"--index={index}", SERVICE, *command)

    def note(self, done: str, result: str) -> None:
        """Add a line to the table."""
        table.append((self.name, done, result))
        print(f"  {self.name}: {done}: {result}", flush=True)

    def stop(self) -> None:
        """Stop it as `docker compose stop` does; each container of ours must end by itself."""
        started_s = time.monotonic()
        self("stop")
        taken_s = time.monotonic() - started_s
        for service in self("config", "--services").split():
            if service in OURS:
                for container in self.containers(service):
                    state = json.loads(docker("inspect", "--format={{json .State}}", container))
                    assert (state["ExitCode"], state["OOMKilled"]) == (0, False), state
        self.note("stopped", f"{taken_s:.1f} s, exit code 0")


def docker(*words: str) -> str:
    """Run docker, and return what it prints."""
    return subprocess.run(
        ["docker", *words], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()


@contextmanager
def running(project: Project) -> Iterator[Project]:
    """Build and bring up a project; show its log if something fails, and remove it at the end."""
    try:
        project("build", "--quiet")
        project.note("brought up", f"healthy after {project.up():.1f} s")
        yield project
    except BaseException:
        print(project("logs", "--tail=50"), flush=True)
        raise
    finally:
        project("down", "--volumes", "--remove-orphans", "--rmi=local")


def smoke_test(project: Project, address: str) -> None:
    """Ask what Weaviate and people ask."""
    command = [sys.executable, "smoke_test.py", f"http://{address}"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    project.note("smoke_test.py", "passed")


def write_to_disk(project: Project, service: str) -> None:
    """Try to write where a read-only container may not."""
    program = "open('/tmp/a', 'w'); open('/app/models/a', 'w')"
    try:
        project("exec", "-T", service, "python3", "-c", program)
    except subprocess.CalledProcessError:
        return
    raise AssertionError(f"{service} could write to its image")


def weaviate_of(project: Project) -> Weaviate:
    """Connect to the project's Weaviate."""
    return Weaviate(f"http://{project.address('weaviate')}")


def try_volume(project: Project, collection: str) -> None:
    """Remove the containers and make them anew; Weaviate still holds what it held."""
    before = count(weaviate_of(project), collection)
    project("down")
    project.up()
    assert count(weaviate_of(project), collection) == before > 0
    project.note("containers made anew", f"{before} objects still there")


def try_pictures(hub: Hub, folder: Path) -> None:
    """The standard file."""
    with running(Project(["docker-compose.yml"], hub, folder)) as project:
        smoke_test(project, project.address(SERVICE))
        write_to_disk(project, SERVICE)
        project.note(IMPORTS, import_pictures(weaviate_of(project)))
        try_volume(project, "Pictures")
        project.stop()


def try_tokens(hub: Hub, folder: Path) -> None:
    """The same with a token, which is replaced while it runs."""
    token = folder / "inference-token"
    token.write_text("a-token\n")
    files = ["docker-compose.yml", "docker-compose.tokens.yml"]
    with running(Project(files, hub, folder, INFERENCE_TOKEN="a-token")) as project:
        address = project.address(SERVICE)
        command = [sys.executable, "smoke_test.py", f"http://{address}"]
        assert subprocess.run(command, check=False, cwd=ROOT, capture_output=True).returncode == 1
        project.note("smoke_test.py without a token", "turned away")
        smoke_test(project, f"any:a-token@{address}")
        project.note(IMPORTS, import_pictures(weaviate_of(project)))
        (container,) = project.containers(SERVICE)
        assert "a-token" not in docker("inspect", "--format={{json .Config}}", container)
        token.write_text("a-token,another\n")
        time.sleep(12)  # it is read every 10 s
        smoke_test(project, f"any:another@{address}")
        project.note("a second token in the file", "let in within 12 s")
        project.stop()


def try_texts(hub: Hub, folder: Path) -> None:
    """A model of texts."""
    with running(Project(["deploy/docker-compose.texts.yml"], hub, folder)) as project:
        smoke_test(project, project.address("text2vec-transformers"))
        write_to_disk(project, "text2vec-transformers")
        project.note(IMPORTS, import_texts(weaviate_of(project)))
        try_volume(project, "Texts")
        project.stop()


def try_rerank(hub: Hub, folder: Path) -> None:
    """A model of texts and a reranker."""
    with running(Project(["deploy/docker-compose.rerank.yml"], hub, folder)) as project:
        smoke_test(project, project.address("text2vec-transformers"))
        smoke_test(project, project.address("reranker-transformers"))
        weaviate = weaviate_of(project)
        project.note(IMPORTS, import_texts(weaviate, "reranker-transformers"))
        project.note("Weaviate reranks", rerank_texts(weaviate))
        project.stop()


def try_several(hub: Hub, folder: Path) -> None:
    """Several models in one image, which is made of four others."""
    names = build_several(hub)
    with running(Project(["deploy/docker-compose.several.yml"], hub, folder)) as project:
        for name in names:
            smoke_test(project, f"{project.address('inference')}/m/{name}")
        write_to_disk(project, "inference")
        weaviate = weaviate_of(project)
        project.note(IMPORTS, import_pictures(weaviate))
        project.note(IMPORTS, import_texts(weaviate, "reranker-transformers"))
        project.note("Weaviate reranks", rerank_texts(weaviate))
        try_volume(project, "Texts")
        project.stop()


def try_replicas(hub: Hub, folder: Path) -> None:
    """Replicas behind Envoy, one of which is killed; then one alone, which restarts."""
    # Without a cache, or little would be in flight when a replica is killed.
    uncached = {SERVICE: {"environment": {"VECTOR_CACHE_SIZE": "0"}}}
    with running(Project([REPLICAS], hub, folder, uncached)) as project:
        smoke_test(project, project.address("balancer"))
        project.note(IMPORTS, import_pictures(weaviate_of(project)))
        target = project.target("balancer")
        known = asyncio.run(crowd.learn(target, objects(8 * SENDERS)))

        def kill_one() -> None:
            docker("kill", project.containers(SERVICE)[0])
            time.sleep(3)
            project.up("--no-recreate")

        lose_nothing(project, "one of three killed and started again", known, kill_one)
        five = ("--no-recreate", "--scale", f"{SERVICE}=5")
        lose_nothing(project, "three to five", known, lambda: project.up(*five))
        one = ("--no-recreate", "--scale", f"{SERVICE}=1")
        lose_nothing(project, "five to one", known, lambda: project.up(*one))
        lose_nothing(project, "the only one restarted", known, lambda: project("restart", SERVICE))
        project.stop()


def lose_nothing(
    project: Project, done: str, known: crowd.Known, story: Callable[[], object]
) -> None:
    """Import through the balancer while something happens; no object may be lost."""

    def told() -> None:
        time.sleep(2)
        story()
        time.sleep(3)

    imported = Import.of(project.target("balancer"), known).during(told)
    project.note(done, summary(imported))
    assert not imported.lost, imported
    assert imported.answered > SENDERS


def summary(imported: Imported) -> str:
    """Say what came of an import."""
    lost = sum(imported.lost.values())
    return f"{imported.answered:,} answers, {lost} lost, the slowest {imported.slowest_s:.1f} s"


def try_valkey(hub: Hub, folder: Path) -> None:
    """One replica answers from what another has computed, also after a restart of all."""
    files = [REPLICAS, "deploy/docker-compose.valkey.yml"]
    with running(Project(files, hub, folder, VECTOR_CACHE_SECRET="a-secret")) as project:
        first, second = (vectors_of(project, index) for index in (1, 2))
        assert first == second
        assert store_hits(project, 1) == 0
        assert store_hits(project, 2) == 4
        project.note("a second replica is asked the same", "4 of 4 vectors from Valkey")
        project("restart", SERVICE, "valkey")
        project.up("--no-recreate")
        assert vectors_of(project, 3) == first
        assert store_hits(project, 3) == 4
        project.note("all restarted, a third one is asked", "4 of 4 vectors from Valkey")
        docker("kill", *project.containers("valkey"))
        assert vectors_of(project, 3, "without") != first
        project.note("Valkey killed", "the replica computes by itself")
        project.stop()


def vectors_of(project: Project, replica: int, words: str = "text") -> Any:
    """Ask a replica for four texts, and wait until it has written their vectors."""
    texts = [f"{words} {number}" for number in range(4)]
    program = (
        "import json, time, urllib.request as u; "
        f"body = json.dumps({{'texts': {texts}}}).encode(); "
        "print(u.urlopen('http://127.0.0.1:8080/vectorize', body).read().decode()); "
        "time.sleep(2)"
    )
    return json.loads(project.ask_replica(replica, program))["textVectors"]


def store_hits(project: Project, replica: int) -> int:
    """How many vectors a replica has found in the store."""
    program = (
        "import urllib.request as u; "
        "print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    )
    metrics = project.ask_replica(replica, program)
    (hits,) = re.findall(
        r'^inference_vector_store_lookups_total\{result="hit"\} (\S+)', metrics, re.M
    )
    return round(float(hits))


TRIALS = {
    "standard": try_pictures,
    "tokens": try_tokens,
    "texts": try_texts,
    "rerank": try_rerank,
    "several": try_several,
    "replicas": try_replicas,
    "valkey": try_valkey,
}


def main() -> None:
    """Try the compose files that are named, or all, one after the other."""
    try:
        check_docker("compose", "buildx")
        os.environ["PYTHON_IMAGE"] = image_for(PYTHON)
        with tempfile.TemporaryDirectory() as scratch_name:
            scratch = Path(scratch_name)
            with serving(small_hub(scratch)) as hub:
                for name in sys.argv[1:] or TRIALS:
                    folder = scratch / f"of-{name}"
                    folder.mkdir()
                    TRIALS[name](hub, folder)
    except DockerError as error:
        sys.exit(str(error))
    print("| compose file | what was done | result |\n|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in table))
    print("All compose files run as they should.")


if __name__ == "__main__":
    main()
