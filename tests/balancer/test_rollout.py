"""The balancer itself is replaced: it says goodbye before Kubernetes ends it."""

from __future__ import annotations

import http.client
import subprocess
from contextlib import closing
from pathlib import Path

import yaml

from tests.balancer.envoy import Balancer, balancing
from tests.balancer.names import NameServer
from tests.service import ROOT, free_port

MANIFEST = ROOT / "deploy/kubernetes/balancer.yaml"


def goodbye(balancer: Balancer) -> str:
    """What the manifest's container does before it is stopped, but for the waiting."""
    (deployment,) = (
        document
        for document in yaml.safe_load_all(MANIFEST.read_text())
        if document["kind"] == "Deployment"
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    *shell, script = container["lifecycle"]["preStop"]["exec"]["command"]
    says, _, _ = script.replace("/9901", f"/{balancer.admin_port}").partition("sleep")
    return subprocess.run([*shell, says], capture_output=True, text=True, check=True).stdout


def ask(client: http.client.HTTPConnection) -> http.client.HTTPResponse:
    client.request("GET", "/balancer/ready")
    answer = client.getresponse()
    answer.read()
    return answer


def test_after_its_goodbye_no_connection_is_kept_and_no_new_one_wanted(tmp_path: Path) -> None:
    with (
        NameServer() as names,
        balancing(tmp_path / "envoy", names, free_port()) as balancer,
        closing(http.client.HTTPConnection("127.0.0.1", balancer.target.port)) as client,
    ):
        before = ask(client)
        assert goodbye(balancer).startswith("HTTP/1.1 200")
        after = ask(client)

    assert (before.status, before.getheader("Connection")) == (200, None)
    assert (after.status, after.getheader("Connection")) == (503, "close")
