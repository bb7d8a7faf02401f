"""The trials of what is lost: what is done to deploy/ while senders ask for vectors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import yaml

from tests.balancer.importer import SENDERS
from tests.cluster.deployed import BALANCER, CLIP, MANIFESTS, WAIT_S, Deployed, wait_until
from tests.cluster.parts import keda
from tests.service import ROOT
from tests.stand_ins import ADAPTER, KEDA, KEDA_ADAPTER, PROMETHEUS

Outcome = tuple[str, bool]  # what came of it, and whether it is as it should be
Story = Callable[[Deployed], object]
PODS = {CLIP: 3, BALANCER: 2}  # between the trials


def losing(story: Story, bound: int = 0) -> Callable[[Deployed], Outcome]:
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


@contextmanager
def _scaled(deployed: Deployed, name: str, count: int) -> Iterator[None]:
    """Scale a deployment, and at the end to as many pods as the other trials expect."""
    try:
        deployed.scale(name, count)
        yield
    finally:
        deployed.scale(name, PODS[name])


@contextmanager
def _applied(deployed: Deployed, manifest: Any) -> Iterator[None]:
    """Apply a manifest, and delete at the end what it describes."""
    written = yaml.safe_dump(manifest)
    try:
        deployed.kubectl("apply", "-f", "-", given=written)
        yield
    finally:
        deployed.kubectl("delete", "--ignore-not-found", "-f", "-", given=written)


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
    path = f"/api/v1/namespaces/{deployed.namespace}/pods/{name}/eviction"
    deployed.kubectl("create", f"--raw={path}", "-f", "-", given=json.dumps(eviction))
    time.sleep(1)
    deployed.settle(CLIP)


def _strike(name: str, signal: str) -> Story:
    return lambda deployed: f"back after {deployed.strike(name, signal):.0f} s"


def _freeze_the_only_one(deployed: Deployed) -> Outcome:
    with _scaled(deployed, CLIP, 1):
        return losing(_strike(CLIP, "STOP"))(deployed)


def _drain_a_node(deployed: Deployed) -> str:
    node = deployed.cluster.nodes[1]
    on = deployed.nodes_of(CLIP, BALANCER)
    options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={WAIT_S}s")
    try:
        deployed.kubectl("drain", node, *options)
        for name in (CLIP, BALANCER):
            deployed.settle(name)
        left = deployed.nodes_of(CLIP, BALANCER)
    finally:
        deployed.kubectl("uncordon", node)
    assert node not in left
    return f"{on.count(node)} of {len(on)} pods were on it"


def _spread(deployed: Deployed) -> Outcome:
    """Look where the scheduler puts pods."""
    counts = []
    with _scaled(deployed, CLIP, 0), _scaled(deployed, BALANCER, 0):
        for name, count in ((CLIP, 4), (BALANCER, 2)):
            deployed.scale(name, count)
            nodes = deployed.nodes_of(name)
            counts.append([nodes.count(node) for node in deployed.cluster.nodes])
    return f"replicas {counts[0]}, balancers {counts[1]}", counts == [[2, 2], [1, 1]]


def _send_large_bodies(count: int, megabytes: int) -> Callable[[Deployed], Outcome]:
    """Make a trial: large bodies while no replica is ready, at one balancer."""

    def trial(deployed: Deployed) -> Outcome:
        with _scaled(deployed, BALANCER, 1), _scaled(deployed, CLIP, 0):
            before = deployed.restarts(BALANCER)
            with deployed.sending("bodies", str(count), str(megabytes)) as outcome:
                time.sleep(10)
                deployed.scale(CLIP, 3)
            restarted = deployed.restarts(BALANCER) - before
        statuses = outcome["statuses"]
        said = ", ".join(f"{number} x {status}" for status, number in statuses.items())
        return f"{said}; the balancer was restarted {restarted} times", not restarted

    return trial


def _scale_by_load(deployed: Deployed) -> Outcome:
    """Let the HorizontalPodAutoscaler scale on inference_queue_items, up and down again."""
    _watch(deployed)
    autoscaler = yaml.safe_load((ROOT / "deploy/kubernetes/autoscaler.yaml").read_text())
    # The tests' model is fast and this machine small: less waits, and waiting takes less time.
    autoscaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"] = "2"
    autoscaler["spec"]["maxReplicas"] = 3
    autoscaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 15
    with _scaled(deployed, CLIP, 1), _applied(deployed, autoscaler):
        return _follow(deployed)


def _scale_by_keda(deployed: Deployed) -> Outcome:
    """Let KEDA do the same."""
    _watch(deployed)
    policy = "imagePullPolicy: {}".format
    manifests = keda(deployed.cluster.kubectl).replace(policy("Always"), policy("IfNotPresent"))
    for original in (KEDA, KEDA_ADAPTER):
        manifests = manifests.replace(f"{original.rsplit(':', 1)[0]}:main", deployed.load(original))
    deployed.apply(manifests)
    for part in ("keda-operator", "keda-metrics-apiserver"):
        deployed.kubectl("rollout", "status", "--namespace=keda", f"deployment/{part}")
    scaled = yaml.safe_load((ROOT / "deploy/kubernetes/keda.yaml").read_text())
    spec = scaled["spec"]
    spec |= {"minReplicaCount": 1, "maxReplicaCount": 3, "pollingInterval": 5}
    metadata = spec["triggers"][0]["metadata"]
    metadata["threshold"] = "2"
    metadata["query"] = metadata["query"].replace('"default"', f'"{deployed.namespace}"')
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    behavior["scaleDown"]["stabilizationWindowSeconds"] = 15
    with _scaled(deployed, CLIP, 1), _applied(deployed, scaled):
        deployed.kubectl("wait", f"scaledobject/{CLIP}", "--for=condition=Ready", "--timeout=60s")
        return _follow(deployed)


def _watch(deployed: Deployed) -> None:
    """Start Prometheus and its adapter, if they do not run yet."""
    manifests = (MANIFESTS / "metrics.yaml").read_text()
    for original in (PROMETHEUS, ADAPTER):
        manifests = manifests.replace(original, deployed.load(original))
    deployed.apply(manifests)


def _follow(deployed: Deployed) -> Outcome:
    """Send until there are more replicas, and wait until there is one again."""
    fault = partial(deployed.kubectl, "describe", "hpa")
    most = 0

    def has_grown() -> bool:
        nonlocal most
        most = deployed.replicas()
        return most > 1

    def load(_: Deployed) -> None:
        wait_until(has_grown, fault)
        deployed.settle(CLIP)

    said, is_good = losing(load)(deployed)
    wait_until(lambda: deployed.replicas() == 1, fault)
    return f"1 to {most} replicas under load, then 1; {said}", is_good


LOSSES: dict[str, Callable[[Deployed], Outcome]] = {
    "pods spread over two nodes": _spread,
    "replicas rolled out": losing(_roll_out(CLIP)),
    "balancers rolled out": losing(_roll_out(BALANCER)),
    "both rolled out": losing(_roll_out(CLIP, BALANCER)),
    "a variable changed": losing(_change_a_variable),
    "a replica deleted": losing(_delete()),
    "a replica deleted by force": losing(_delete("--force", "--grace-period=0")),
    "three replicas to one to three": losing(_scale_down_and_up),
    "a replica evicted": losing(_evict),
    "a replica killed (SIGKILL)": losing(_strike(CLIP, "KILL")),
    "a replica frozen (SIGSTOP)": losing(_strike(CLIP, "STOP")),
    "the only replica frozen": _freeze_the_only_one,
    "a node drained": losing(_drain_a_node),
    # Each sender can lose what it has in flight there: Weaviate's client sends nothing again.
    "a balancer killed (SIGKILL)": losing(_strike(BALANCER, "KILL"), bound=SENDERS),
    "a balancer frozen (SIGSTOP)": losing(_strike(BALANCER, "STOP"), bound=SENDERS),
    "16 bodies of 90 MB, no replica ready": _send_large_bodies(16, 90),
    "64 bodies of 20 MB, no replica ready": _send_large_bodies(64, 20),
    "64 bodies of 60 MB, no replica ready": _send_large_bodies(64, 60),
    "load that the autoscaler follows": _scale_by_load,
    "load that KEDA follows": _scale_by_keda,
}
