"""deploy/ in a cluster: applied, asked, scaled and struck at."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.hub_server import Hub
from tests.service import ROOT
from tests.stand_ins import ENVOY, image_for

CLIP, BALANCER = "multi2vec-clip", "multi2vec-clip-balancer"
PROGRAMS = {CLIP: "app.py", BALANCER: "envoy"}
MANIFESTS = Path(__file__).parent / "manifests"
CODE = "/tmp/senders"  # of the tests, in a pod
OURS = "registry.example.org/multi2vec-clip-service"
LESS = {"cpu": "100m", "memory": "256Mi"}  # is asked for, as the machine is small
_SENT = ("tests/*.py", "tests/balancer/*.py", "tests/cluster/*.py", "bench/*.py", "smoke_test.py")
_SAMPLES = "demo/samples/*.png"
WAIT_S = 300


class Cluster(Protocol):
    """A cluster, as kind or the lab makes it."""

    kubectl: list[str]
    nodes: list[str]

    def on_node(self, node: str, script: str) -> str:
        """Run a line of shell on a node."""

    def load(self, image: str, *nodes: str) -> None:
        """Copy an image from Docker to nodes, or to all."""


class Deployed:
    """deploy/ as it is applied to a namespace, with a pod that sends.

    Beside the images it differs in two things: less CPU and memory are asked for, as the machine is
    small, and no vector is cached, so that all are computed while something happens.

    Args:
        cluster: where.
        image: of the service.
        hub: where images fetch their weights while they are built.
        folder: where the overlay is written.
        namespace: its name.
        replicas: how many.
        patches: documents that change what deploy/ has.
        senders: the image of the pod that sends; None for the service's.
    """

    def __init__(
        self,
        cluster: Cluster,
        image: str,
        hub: Hub,
        folder: Path,
        namespace: str = "clip",
        replicas: int = 3,
        patches: Sequence[str] = (),
        senders: str | None = None,
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.image = image
        self.hub = hub
        self._folder = folder
        self._kubectl = [*cluster.kubectl, "--namespace", namespace]
        envoy = self.load(ENVOY)
        overlay = folder / namespace
        overlay.mkdir(parents=True, exist_ok=True)
        base = os.path.relpath(ROOT / "deploy", overlay)
        written = _overlay(base, image, envoy, namespace, replicas, patches)
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(written))
        level = "pod-security.kubernetes.io/enforce=restricted"
        self.kubectl("create", "namespace", namespace)
        self.kubectl("label", "namespace", namespace, level)
        self.kubectl("apply", "-k", str(overlay))
        self.start_pod("senders", senders or image)
        for name in (CLIP, BALANCER):
            self.settle(name)

    @contextmanager
    def beside(self, namespace: str, image: str, patches: Sequence[str] = ()) -> Iterator[Deployed]:
        """Apply deploy/ once more, with one replica of another image; delete it at the end."""
        try:
            yield Deployed(
                self.cluster,
                image,
                self.hub,
                self._folder,
                namespace=namespace,
                replicas=1,
                patches=patches,
                senders=self.image,
            )
        finally:
            self.delete_namespace(namespace)

    def load(self, original: str) -> str:
        """Copy the image that stands in for another one to all nodes; return its name."""
        image = image_for(original)
        self.cluster.load(image)
        return image

    def kubectl(self, *words: str, given: str | None = None) -> str:
        """Run kubectl in the namespace, and return what it prints."""
        return _output([*self._kubectl, *words], given)

    def apply(self, manifests: str) -> None:
        """Apply manifests to the namespaces that they name."""
        _output([*self.cluster.kubectl, "apply", "--server-side", "-f", "-"], manifests)

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace, if it is there; what runs in it ends later."""
        options = ("--ignore-not-found", "--wait=false")
        _output([*self.cluster.kubectl, "delete", "namespace", name, *options])

    def settle(self, name: str) -> None:
        """Wait until a deployment is as it is asked for, and nothing of it is on its way out."""
        self.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={WAIT_S}s")
        wait_until(
            lambda: not any(pod["metadata"].get("deletionTimestamp") for pod in self.pods(name)),
            lambda: f"a pod of {name} does not go",
        )

    def pods(self, name: str) -> list[Any]:
        """The pods of a deployment."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"app={name}", "-o", "json"))
        return list(found["items"])

    def nodes_of(self, *names: str) -> list[str]:
        """The node of each pod of some deployments."""
        return [pod["spec"]["nodeName"] for name in names for pod in self.pods(name)]

    def restarts(self, name: str) -> int:
        """How often containers of a deployment's pods were restarted."""
        states = [s for pod in self.pods(name) for s in pod["status"].get("containerStatuses", [])]
        return sum(state["restartCount"] for state in states)

    def strike(self, name: str, signal: str) -> float:
        """Send a signal to one pod's process; return the seconds until it is back and ready."""
        before, (pod, *_) = self.restarts(name), self.pods(name)
        started_s = time.monotonic()
        self.cluster.on_node(
            pod["spec"]["nodeName"],
            "for process in /proc/[0-9]*; do "
            f"grep -qs {PROGRAMS[name]} $process/cmdline && "
            f"tr '\\0' '\\n' < $process/environ | grep -qx HOSTNAME={pod['metadata']['name']} && "
            f"kill -{signal} ${{process#/proc/}}; done; true",
        )
        wait_until(lambda: self.restarts(name) != before, lambda: f"{signal} restarted no {name}")
        self.settle(name)
        return time.monotonic() - started_s

    def scale(self, name: str, count: int) -> None:
        """Scale a deployment, and wait."""
        self.kubectl("scale", f"deployment/{name}", f"--replicas={count}")
        self.settle(name)

    def replicas(self) -> int:
        """How many replicas are asked for now."""
        deployment = json.loads(self.kubectl("get", "deployment", CLIP, "-o", "json"))
        return int(deployment["spec"]["replicas"])

    @contextmanager
    def sending(self, *what: str) -> Iterator[dict[str, Any]]:
        """Send meanwhile; afterwards the dictionary holds what came of it."""
        command = self.python("-m", "tests.cluster.senders", f"{BALANCER}:8080", *what)
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stdout.readline() == "sending\n"
        outcome: dict[str, Any] = {}
        time.sleep(2)
        try:
            yield outcome
            time.sleep(3)
        finally:
            printed, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, "a vector was wrong"
        outcome.update(json.loads(printed))

    def python(self, *words: str, pod: str = "senders") -> list[str]:
        """What runs Python in a pod that has the code of the tests."""
        inside = ["env", f"--chdir={CODE}", "python3", *words]
        return [*self._kubectl, "exec", "-i", pod, "--", *inside]

    def run(self, *words: str) -> str:
        """Run Python in the pod that sends, and return what it prints."""
        command = self.python(*words)
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    def start_pod(self, name: str, image: str, *data: str) -> None:
        """Start a pod with the code of the tests on the node that stays, and with more files."""
        pod = yaml.safe_load((MANIFESTS / "senders.yaml").read_text())
        pod["metadata"]["name"] = name
        pod["spec"]["nodeName"] = self.cluster.nodes[0]
        pod["spec"]["containers"][0]["image"] = image
        self.kubectl("apply", "-f", "-", given=yaml.safe_dump(pod))
        self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={WAIT_S}s")
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for pattern in (*_SENT, _SAMPLES, *data):
                for file in filter(Path.is_file, ROOT.glob(pattern)):
                    archive.add(file, file.relative_to(ROOT))
        unpack = ["sh", "-c", f"mkdir -p {CODE} && tar -x -C {CODE}"]
        command = [*self._kubectl, "exec", "-i", name, "--", *unpack]
        subprocess.run(command, input=packed.getvalue(), check=True)


def wait_until(holds: Callable[[], bool], fault: Callable[[], str]) -> None:
    """Wait until something holds; its absence fails the trial with the fault as it is then."""
    ends_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < ends_s, fault()
        time.sleep(1)


def _output(command: Sequence[str], given: str | None = None) -> str:
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, text=True, check=True, timeout=WAIT_S
    )
    return done.stdout


def _overlay(
    base: str, image: str, envoy: str, namespace: str, replicas: int, patches: Sequence[str]
) -> dict[str, Any]:
    (name, tag), (envoy_name, envoy_tag) = image.rsplit(":", 1), envoy.rsplit(":", 1)
    of_container = "/spec/template/spec/containers/0"
    less = [{"op": "replace", "path": f"{of_container}/resources/requests", "value": LESS}]
    uncached = {"name": "VECTOR_CACHE_SIZE", "value": "0"}
    added = [{"op": "add", "path": f"{of_container}/env/-", "value": uncached}]
    return {
        "resources": [base],
        "namespace": namespace,
        "images": [
            {"name": OURS, "newName": name, "newTag": tag},
            {"name": ENVOY.rsplit(":", 1)[0], "newName": envoy_name, "newTag": envoy_tag},
        ],
        "replicas": [{"name": CLIP, "count": replicas}],
        "patches": [
            *({"patch": patch} for patch in patches),
            {"patch": yaml.safe_dump(less), "target": {"kind": "Deployment"}},
            {"patch": yaml.safe_dump(added), "target": {"kind": "Deployment", "name": CLIP}},
        ],
    }
