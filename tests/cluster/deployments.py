"""The trials of other ways to deploy: a model from the hub, several models, Weaviate's chart."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import yaml

from tests.cluster.deployed import BALANCER, CLIP, LESS, Deployed
from tests.cluster.hub import MODEL
from tests.cluster.parts import BUILD
from tests.cluster.trials import Outcome, losing
from tests.images import build, build_several
from tests.service import ROOT
from tests.stand_ins import WEAVIATE

CUSTOM = "multi2vec-clip-test/custom:test"
MODELS = "multi2vec-clip-test/models:test"
CHART = "https://weaviate.github.io/weaviate-helm"
KUBERNETES = ROOT / "deploy/kubernetes"
_ask = losing(lambda _: None)


def fetch_from_hub(deployed: Deployed) -> Outcome:
    """A model that an init container downloads from a hub in a pod, and converts."""
    build(CUSTOM, ROOT, "--target", "custom")
    node = deployed.cluster.nodes[0]
    deployed.cluster.load(CUSTOM, node)  # it has gigabytes
    deployed.start_pod("hub", deployed.image, f"{MODEL}/**/*")
    command = deployed.python("-m", "tests.cluster.hub", pod="hub")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hub:
        assert hub.stdout
        assert hub.stdout.readline() == b"serving\n"
        address = deployed.kubectl("get", "pod", "hub", "-o", "jsonpath={.status.podIP}")
        endpoint = {"name": "HF_ENDPOINT", "value": f"http://{address}:443"}
        download = {"name": "download", "env": [endpoint], "resources": {"requests": LESS}}
        here = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": CLIP},
            "spec": {
                "template": {
                    "spec": {
                        "nodeSelector": {"kubernetes.io/hostname": node},
                        "initContainers": [download],
                    }
                }
            },
        }
        patches = [(KUBERNETES / "model-from-hub.yaml").read_text(), yaml.safe_dump(here)]
        started_s = time.monotonic()
        with deployed.beside("from-hub", CUSTOM, patches) as other:
            ready_s = time.monotonic() - started_s
            said, is_good = _ask(other)
    deployed.kubectl("delete", "pod", "hub")
    return f"fetched, converted and ready after {ready_s:.0f} s; {said}", is_good


def serve_several(deployed: Deployed) -> Outcome:
    """Several models in one image, each asked by its name."""
    names = build_several(deployed.hub)
    subprocess.run(["docker", "tag", "my/models", MODELS], check=True)
    deployed.cluster.load(MODELS)
    patch = (KUBERNETES / "several-models.yaml").read_text()
    with deployed.beside("several", MODELS, [patch]) as other:
        for name in names:
            other.run("smoke_test.py", f"http://{BALANCER}:8080/m/{name}")
        said, is_good = _ask(other)
    return f"{', '.join(names)} passed smoke_test.py; {said}", is_good


def install_chart(deployed: Deployed) -> Outcome:
    """Weaviate by its own chart, with helm-values.yaml: it imports images, and finds them."""
    weaviate = deployed.load(WEAVIATE)
    own = {
        "image": _in_parts(weaviate),
        # It sets limits of the machine's kernel, by an image that a lab without registry lacks.
        "initContainers": {"sysctlInitContainer": {"enabled": False}},
        "env": {"DISK_USE_READONLY_PERCENTAGE": 99},
        "modules": {
            "multi2vec-clip": {**_in_parts(deployed.image), "resources": {"requests": LESS}}
        },
    }
    helm = shutil.which("helm") or str(BUILD / "helm")
    local = os.environ.get("WEAVIATE_CHART")
    chart = [local] if local else ["weaviate", "--repo", CHART]
    command = [helm, "template", "weaviate", *chart, "--namespace=chart"]
    command += [f"--values={ROOT}/deploy/helm-values.yaml", "--values=-"]
    rendered = subprocess.run(
        command, input=yaml.safe_dump(own), stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    started_s = time.monotonic()
    deployed.kubectl("create", "namespace", "chart")
    try:
        deployed.kubectl("apply", "--namespace=chart", "-f", "-", given=rendered)
        for name in ("deployment/clip-inference", "statefulset/weaviate"):
            deployed.kubectl("rollout", "status", "--namespace=chart", name, "--timeout=280s")
        ready_s = time.monotonic() - started_s
        said = deployed.run("-m", "tests.cluster.senders", "weaviate.chart:80", "pictures")
    finally:
        deployed.delete_namespace("chart")
    return f"ready after {ready_s:.0f} s; imported and found {said.strip()}", True


def _in_parts(image: str) -> dict[str, str]:
    """Registry, repository and tag, as the chart has them."""
    name, tag = image.rsplit(":", 1)
    first, _, rest = name.partition("/")
    registry, repository = (first, rest) if "." in first else ("docker.io", name)
    return {"registry": registry, "repo": repository, "tag": tag}
