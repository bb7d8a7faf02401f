"""The trials: what is done to deploy/ in a cluster while senders ask for vectors."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.balancer.importer import SENDERS
from tests.service import ROOT
from tests.stand_ins import ADAPTER, ENVOY, PROMETHEUS, image_for

NAMESPACE = "clip"
CLIP, BALANCER = "multi2vec-clip", "multi2vec-clip-balancer"
PROGRAMS = {CLIP: "app.py", BALANCER: "envoy"}
MANIFESTS = Path(__file__).parent / "manifests"
OURS = "registry.example.org/multi2vec-clip-service"
_WAIT_S = 300


class Cluster(Protocol):
    """A cluster, as kind or the lab makes it."""

    kubectl: list[str]
    nodes: list[str]

    def on_node(self, node: str, script: str) -> str:
        """Run a line of shell on a node."""

    def load(self, image: str) -> None:
        """Copy an image from Docker to all nodes."""


class Deployed:
    """deploy/ as it is applied to a cluster, with three replicas.

    Beside the images it differs in two things: less CPU and memory are asked for, as the machine is
    small, and no vector is cached, so that all are computed while something happens.

    Args:
        cluster: where.
        image: of the service.
        folder: where the overlay is written.

    Attributes:
        table: for each trial what happened, what came of it, and the seconds that it took.
        failed: names of trials in which something was lost that need not be.
    """

    def __init__(self, cluster: Cluster, image: str, folder: Path) -> None:
        self.cluster = cluster
        self._kubectl = [*cluster.kubectl, "--namespace", NAMESPACE]
        self.table: list[tuple[str, str, str]] = []
        self.failed: list[str] = []
        self._image = image
        envoy = image_for(ENVOY)
        for one in (image, envoy):
            cluster.load(one)
        overlay = folder / "overlay"
        overlay.mkdir(parents=True, exist_ok=True)
        (overlay / "kustomization.yaml").write_text(
            yaml.safe_dump(_overlay(image, envoy, os.path.relpath(ROOT / "deploy", overlay)))
        )
        level = "pod-security.kubernetes.io/enforce=restricted"
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("label", "namespace", NAMESPACE, level)
        self.kubectl("apply", "-k", str(overlay))
        self._start_senders()
        for name in (CLIP, BALANCER):
            self.settle(name)

    def kubectl(self, *words: str, given: str | None = None) -> str:
        """Run kubectl in the namespace, and return what it prints."""
        command = [*self._kubectl, *words]
        done = subprocess.run(
            command, input=given, stdout=subprocess.PIPE, text=True, check=True, timeout=_WAIT_S
        )
        return done.stdout

    def run(self, name: str) -> None:
        """Run a trial by its name, and add it to the table."""
        print(f"{name} ...", flush=True)
        started_s = time.monotonic()
        try:
            result, is_good = TRIALS[name](self)
        except (AssertionError, subprocess.SubprocessError) as error:
            result, is_good = f"{type(error).__name__}: {error}", False
        row = (name, result, f"{time.monotonic() - started_s:.0f}")
        print(f"  {row}", flush=True)
        self.table.append(row)
        if not is_good:
            self.failed.append(name)

    def settle(self, name: str) -> None:
        """Wait until a deployment is as it is asked for, and nothing of it is on its way out."""
        self.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={_WAIT_S}s")
        _wait_until(
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
        _wait_until(lambda: self.restarts(name) != before, lambda: f"{signal} restarted no {name}")
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
        command = ["python3", "-m", "tests.cluster.senders", f"{BALANCER}:8080", *what]
        process = subprocess.Popen(
            [*self._in_senders, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stdout.readline() == "sending\n"
        outcome: dict[str, Any] = {}
        time.sleep(2)
        try:
            yield outcome
            time.sleep(3)
        finally:
            printed, _ = process.communicate(timeout=_WAIT_S)
        assert process.returncode == 0, "a vector was wrong"
        outcome.update(json.loads(printed))

    @property
    def _in_senders(self) -> list[str]:
        """What runs a command in the pod that sends."""
        return [*self._kubectl, "exec", "-i", "senders", "--"]

    def _start_senders(self) -> None:
        """Start the pod that sends, on the node that stays, with the code of the tests."""
        pod = yaml.safe_load((MANIFESTS / "senders.yaml").read_text())
        pod["spec"]["nodeName"] = self.cluster.nodes[0]
        pod["spec"]["containers"][0]["image"] = self._image
        self.kubectl("apply", "-f", "-", given=yaml.safe_dump(pod))
        self.kubectl("wait", "pod/senders", "--for=condition=Ready", f"--timeout={_WAIT_S}s")
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for folder in ("tests", "tests/balancer", "tests/cluster", "bench"):
                for file in sorted((ROOT / folder).glob("*.py")):
                    archive.add(file, file.relative_to(ROOT))
        unpack = ["sh", "-c", "mkdir -p /tmp/senders && tar -x -C /tmp/senders"]
        subprocess.run([*self._in_senders, *unpack], input=packed.getvalue(), check=True)


def _wait_until(holds: Callable[[], bool], fault: Callable[[], str]) -> None:
    """Wait until something holds; its absence fails the trial with the fault as it is then."""
    ends_s = time.monotonic() + _WAIT_S
    while not holds():
        assert time.monotonic() < ends_s, fault()
        time.sleep(1)


def _overlay(image: str, envoy: str, base: str) -> dict[str, Any]:
    (name, tag), (envoy_name, envoy_tag) = image.rsplit(":", 1), envoy.rsplit(":", 1)
    of_container = "/spec/template/spec/containers/0"
    less = [
        {"op": "replace", "path": f"{of_container}/resources/requests/cpu", "value": "100m"},
        {"op": "replace", "path": f"{of_container}/resources/requests/memory", "value": "256Mi"},
    ]
    uncached = {"name": "VECTOR_CACHE_SIZE", "value": "0"}
    added = [{"op": "add", "path": f"{of_container}/env/-", "value": uncached}]
    return {
        "resources": [base],
        "namespace": NAMESPACE,
        "images": [
            {"name": OURS, "newName": name, "newTag": tag},
            {"name": ENVOY.rsplit(":", 1)[0], "newName": envoy_name, "newTag": envoy_tag},
        ],
        "replicas": [{"name": CLIP, "count": 3}],
        "patches": [
            {"patch": yaml.safe_dump(less), "target": {"kind": "Deployment"}},
            {"patch": yaml.safe_dump(less + added), "target": {"kind": "Deployment", "name": CLIP}},
        ],
    }


Outcome = tuple[str, bool]  # what came of it, and whether it is as it should be
Story = Callable[[Deployed], object]


def _losing(story: Story, bound: int = 0) -> Callable[[Deployed], Outcome]:
    """Make a trial of a story: senders ask meanwhile, and may lose no more than `bound`."""

    def trial(deployed: Deployed) -> Outcome:
        with deployed.sending("objects") as outcome:
            told = story(deployed)
        lost = sum(outcome["lost"].values())
        answered = f"{outcome['answered']:,} answers, {lost} lost"
        details = [f"slowest {outcome['slowest_s']} s"]
        details += [f"{count} x {error}" for error, count in outcome["lost"].items()]
        if outcome["resent"]:
            details.append(f"{outcome['resent']} whose connection had died were sent again")
        details += [told] if isinstance(told, str) else []
        return f"{answered} ({', '.join(details)})", lost <= bound and outcome["answered"] > 0

    return trial


def _roll_out(*names: str) -> Story:
    def story(deployed: Deployed) -> None:
        for name in names:
            deployed.kubectl("rollout", "restart", f"deployment/{name}")
        for name in names:
            deployed.settle(name)

    return story


def _change_a_variable(deployed: Deployed) -> None:
    deployed.kubectl("set", "env", f"deployment/{CLIP}", "LOG_LEVEL=warning")
    deployed.settle(CLIP)


def _delete(*options: str) -> Story:
    def story(deployed: Deployed) -> None:
        pod = deployed.pods(CLIP)[0]["metadata"]["name"]
        deployed.kubectl("delete", "pod", pod, *options)
        deployed.settle(CLIP)

    return story


def _scale_down_and_up(deployed: Deployed) -> None:
    deployed.scale(CLIP, 1)
    deployed.scale(CLIP, 3)


def _evict(deployed: Deployed) -> None:
    name = deployed.pods(CLIP)[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
    deployed.kubectl("create", f"--raw={path}", "-f", "-", given=json.dumps(eviction))
    time.sleep(1)
    deployed.settle(CLIP)


def _strike(name: str, signal: str) -> Story:
    return lambda deployed: f"back after {deployed.strike(name, signal):.0f} s"


def _freeze_the_only_one(deployed: Deployed) -> Outcome:
    deployed.scale(CLIP, 1)
    outcome = _losing(_strike(CLIP, "STOP"))(deployed)
    deployed.scale(CLIP, 3)
    return outcome


def _drain_a_node(deployed: Deployed) -> str:
    node = deployed.cluster.nodes[1]
    on = deployed.nodes_of(CLIP, BALANCER)
    options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={_WAIT_S}s")
    deployed.kubectl("drain", node, *options)
    for name in (CLIP, BALANCER):
        deployed.settle(name)
    assert node not in deployed.nodes_of(CLIP, BALANCER)
    deployed.kubectl("uncordon", node)
    return f"{on.count(node)} of {len(on)} pods were on it"


def _spread(deployed: Deployed) -> Outcome:
    """Look where the scheduler puts pods."""
    counts = []
    for name in (CLIP, BALANCER):
        deployed.scale(name, 0)
        deployed.scale(name, 4 if name == CLIP else 2)
        nodes = deployed.nodes_of(name)
        counts.append([nodes.count(node) for node in deployed.cluster.nodes])
    deployed.scale(CLIP, 3)
    return f"replicas {counts[0]}, balancers {counts[1]}", counts == [[2, 2], [1, 1]]


def _send_large_bodies(count: int, megabytes: int) -> Callable[[Deployed], Outcome]:
    """Make a trial: large bodies while no replica is ready, at one balancer."""

    def trial(deployed: Deployed) -> Outcome:
        deployed.scale(BALANCER, 1)
        deployed.scale(CLIP, 0)
        before = deployed.restarts(BALANCER)
        with deployed.sending("bodies", str(count), str(megabytes)) as outcome:
            time.sleep(10)
            deployed.scale(CLIP, 3)
        restarted = deployed.restarts(BALANCER) - before
        deployed.scale(BALANCER, 2)
        statuses = outcome["statuses"]
        said = ", ".join(f"{number} x {status}" for status, number in statuses.items())
        return f"{said}; the balancer was restarted {restarted} times", not restarted

    return trial


def _scale_by_load(deployed: Deployed) -> Outcome:
    """Let the HorizontalPodAutoscaler scale on inference_queue_items, up and down again."""
    manifests = (MANIFESTS / "metrics.yaml").read_text()
    for original in (PROMETHEUS, ADAPTER):
        image = image_for(original)
        deployed.cluster.load(image)
        manifests = manifests.replace(original, image)
    subprocess.run(
        [*deployed.cluster.kubectl, "apply", "-f", "-"], input=manifests.encode(), check=True
    )
    deployed.scale(CLIP, 1)
    autoscaler = yaml.safe_load((ROOT / "deploy/kubernetes/autoscaler.yaml").read_text())
    # The tests' model is fast and this machine small: less waits, and waiting takes less time.
    autoscaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"] = "2"
    autoscaler["spec"]["maxReplicas"] = 3
    autoscaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 15
    deployed.kubectl("apply", "-f", "-", given=yaml.safe_dump(autoscaler))

    fault = partial(deployed.kubectl, "describe", "hpa")
    most = 0

    def has_grown() -> bool:
        nonlocal most
        most = deployed.replicas()
        return most > 1

    def load(_: Deployed) -> None:
        _wait_until(has_grown, fault)
        deployed.settle(CLIP)

    said, is_good = _losing(load)(deployed)
    _wait_until(lambda: deployed.replicas() == 1, fault)
    deployed.kubectl("delete", "hpa", CLIP)
    deployed.scale(CLIP, 3)
    return f"1 to {most} replicas under load, then 1; {said}", is_good


TRIALS: dict[str, Callable[[Deployed], Outcome]] = {
    "pods spread over two nodes": _spread,
    "replicas rolled out": _losing(_roll_out(CLIP)),
    "balancers rolled out": _losing(_roll_out(BALANCER)),
    "both rolled out": _losing(_roll_out(CLIP, BALANCER)),
    "a variable changed": _losing(_change_a_variable),
    "a replica deleted": _losing(_delete()),
    "a replica deleted by force": _losing(_delete("--force", "--grace-period=0")),
    "three replicas to one to three": _losing(_scale_down_and_up),
    "a replica evicted": _losing(_evict),
    "a replica killed (SIGKILL)": _losing(_strike(CLIP, "KILL")),
    "a replica frozen (SIGSTOP)": _losing(_strike(CLIP, "STOP")),
    "the only replica frozen": _freeze_the_only_one,
    "a node drained": _losing(_drain_a_node),
    # Each sender can lose what it has in flight there: Weaviate's client sends nothing again.
    "a balancer killed (SIGKILL)": _losing(_strike(BALANCER, "KILL"), bound=SENDERS),
    "a balancer frozen (SIGSTOP)": _losing(_strike(BALANCER, "STOP"), bound=SENDERS),
    "16 bodies of 90 MB, no replica ready": _send_large_bodies(16, 90),
    "64 bodies of 20 MB, no replica ready": _send_large_bodies(64, 20),
    "load that the autoscaler follows": _scale_by_load,
}
