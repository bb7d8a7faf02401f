"""The balancer as it is deployed, on loopback; and connections spread in turn, without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.error import URLError

import yaml

from bench.client import Target
from tests.balancer.names import NameServer
from tests.service import ROOT, free_port

RuntimeName: TypeAlias = Callable[[Path, NameServer, int], AbstractContextManager["Balancer"]]

DEPLOYED = ROOT / "deploy/envoy.yaml"
_TYPES = "type.googleapis.com/envoy.extensions"
_START_S = 20


@dataclass(frozen=True)
class Balancer:
    """A running balancer."""

    target: Target
    admin_port: int
    probe_port: int
    process: subprocess.Popen[bytes]

    def asked_again(self) -> int:
        """How often it has asked for the same once more."""
        name = "cluster.replicas_or_nobody.upstream_rq_retry"
        (stat,) = self._admin(f"/stats?format=json&filter=^{name}$")["stats"]
        return int(stat["value"])

    def ready_replicas(self) -> int:
        clusters = self._admin("/clusters?format=json")["cluster_statuses"]
        (cluster,) = (cluster for cluster in clusters if cluster["name"] == "replicas")
        return sum(
            host["health_status"] == {"eds_health_status": "HEALTHY"}
            for host in cluster.get("host_statuses", [])
        )

    def wait_for(self, replicas: int) -> None:
        """Wait until it has found so many of the replicas ready."""
        ends_s = time.monotonic() + _START_S
        while time.monotonic() < ends_s:
            with suppress(URLError):  # it may not listen yet
                if self.ready_replicas() == replicas:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"not {replicas} replicas ready after {_START_S} s")

    def _admin(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}") as answer:
            return json.load(answer)


@contextmanager
def balancing(
    log: Path, names: NameServer, port: int, heap_bytes: int | None = None
) -> Iterator[Balancer]:
    """Run deploy/envoy.yaml as it is, but for where it listens and whom it asks for the name.

    Args:
        log: where it writes.
        names: the name server that it asks.
        port: of the replicas.
        heap_bytes: what it may hold, if less than it says.
    """
    config = yaml.safe_load(DEPLOYED.read_text())
    if heap_bytes:
        (monitor,) = config["overload_manager"]["resource_monitors"]
        monitor["typed_config"]["max_heap_size_bytes"] = heap_bytes
    with _running(log, config, names, port) as balancer:
        yield balancer


@contextmanager
def by_connection(log: Path, names: NameServer, port: int) -> Iterator[Balancer]:
    """Give each connection to the next replica that is ready, as a Kubernetes Service does.

    The probes are those of deploy/kubernetes/service.yaml.
    """
    config = yaml.safe_load(DEPLOYED.read_text())
    (listener, _), (cluster, *_) = (
        config["static_resources"][key] for key in ("listeners", "clusters")
    )
    passing_on = {"@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy"}
    passing_on |= {"stat_prefix": "tcp", "cluster": "replicas"}
    listener["filter_chains"][0]["filters"] = [
        {"name": "envoy.filters.network.tcp_proxy", "typed_config": passing_on}
    ]
    del cluster["load_balancing_policy"], cluster["outlier_detection"]
    cluster["lb_policy"] = "ROUND_ROBIN"
    cluster["health_checks"][0] |= {"interval": "5s", "no_traffic_interval": "5s"}
    with _running(log, config, names, port) as balancer:
        yield balancer


@contextmanager
def _running(log: Path, config: Any, names: NameServer, port: int) -> Iterator[Balancer]:
    ports = [free_port() for _ in range(3)]
    _move_to_loopback(config, names, port, ports)
    path = log.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    with log.open("w") as output:
        process = subprocess.Popen(
            [_binary(), "-c", path, "--use-dynamic-base-id", "--concurrency", "1"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        own_port, admin_port, probe_port = ports
        balancer = Balancer(Target("127.0.0.1", own_port), admin_port, probe_port, process)
        balancer.wait_for(len(names.addresses))
        yield balancer
    finally:
        process.terminate()
        process.wait(timeout=20)


def _move_to_loopback(config: Any, names: NameServer, port: int, ports: list[int]) -> None:
    (listener, probes), (cluster, *_) = (
        config["static_resources"][key] for key in ("listeners", "clusters")
    )
    for one, own_port in zip((listener, config["admin"], probes), ports, strict=True):
        one["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": own_port}
    replicas = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    replicas["address"]["socket_address"]["port_value"] = port
    resolver = {"address": "127.0.0.1", "port_value": names.port}
    cluster["cluster_type"]["typed_config"]["typed_dns_resolver_config"] = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": f"{_TYPES}.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": resolver}],
        },
    }


def _binary() -> str:
    found = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, "no envoy: `make test` installs it"
    return found
