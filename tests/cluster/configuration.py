"""The configuration of the lab's programs."""

from __future__ import annotations

from pathlib import Path

PAUSE = "multi2vec-clip-test/pause:test"  # holds a pod's namespaces open
CGROUP = "multi2vec-clip-test"


def address(number: int) -> str:
    """The address of a node."""
    return f"172.30.0.{number}"


def pods(number: int) -> str:
    """The addresses of a node's pods."""
    return f"10.244.{number}.0/24"


def kubeconfig(pki: Path) -> dict[str, object]:
    """How the lab's programs reach its API, as its administrator."""
    server = {"server": f"https://{address(1)}:6443", "certificate-authority": f"{pki}/ca.crt"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": server}],
        "users": [{"name": "lab", "user": {"token": "lab"}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }


def containerd(folder: Path) -> str:
    """The configuration of a node's containerd."""
    return f"""
version = 2
root = "{folder}/containerd"
state = "{folder}/run"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{PAUSE}"
  # Containers of containers may lack the capability to lower it.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def network(number: int) -> dict[str, object]:
    """The network of a node's pods: a bridge."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": pods(number)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam}
    return {
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {**bridge, "hairpinMode": True},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet(node: str, folder: Path) -> dict[str, object]:
    """The configuration of a node's kubelet."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}/{node}",
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi"},
        "failSwapOn": False,
        "failCgroupV1": False,
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": f"{folder}/log",
        "resolvConf": f"{folder}/resolv.conf",
    }
