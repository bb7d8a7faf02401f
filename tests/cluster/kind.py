"""A cluster by kind: nodes are containers of Docker."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import yaml

_NAME = "multi2vec-clip-test"


class Kind:
    """A cluster; `with` makes it, and deletes it.

    Attributes:
        kubectl: the command that reaches it.
        nodes: names of the nodes that run pods.
    """

    def __init__(self) -> None:
        self.nodes = [f"{_NAME}-worker", f"{_NAME}-worker2"]
        self._folder = tempfile.TemporaryDirectory()
        kubeconfig = Path(self._folder.name) / "kubeconfig"
        self.kubectl = ["kubectl", f"--kubeconfig={kubeconfig}"]
        self._options = ["--name", _NAME, "--kubeconfig", str(kubeconfig)]

    def __enter__(self) -> Kind:
        workers = [
            {"role": "worker", "labels": {"topology.kubernetes.io/zone": f"zone{number}"}}
            for number in (1, 2)
        ]
        config = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": "control-plane"}, *workers],
        }
        subprocess.run(
            ["kind", "create", "cluster", "--config=-", "--wait=180s", *self._options],
            input=yaml.safe_dump(config).encode(),
            check=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["kind", "delete", "cluster", *self._options], check=True)
        self._folder.cleanup()

    def on_node(self, node: str, script: str) -> str:
        """Run a line of shell on a node, and return what it prints."""
        command = ["docker", "exec", node, "sh", "-c", script]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    def load(self, image: str, *nodes: str) -> None:
        """Copy an image from Docker to nodes, or to all."""
        command = ["kind", "load", "docker-image", image, "--name", _NAME]
        command += [f"--nodes={','.join(nodes)}"] if nodes else []
        subprocess.run(command, check=True)
