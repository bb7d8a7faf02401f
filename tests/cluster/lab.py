"""A Kubernetes of two nodes on this machine, from Go modules and Debian's packages.

It needs root, and no image of a registry: where kind can pull its images, kind is simpler. Each
node is a set of namespaces, whose end ends all that runs in them. A build takes ten minutes once,
and stays in build/cluster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import yaml

from tests.cluster import configuration
from tests.cluster.configuration import CGROUP, PAUSE, address, pods
from tests.cluster.parts import BUILD, build
from tests.stand_ins import make_image

MANIFESTS = Path(__file__).parent / "manifests"
STATE = Path("/var/lib/multi2vec-clip-test")  # short: paths of sockets have 108 bytes
PACKAGES = {  # of Debian, by a program in each
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ipset": "ipset",
    "openssl": "openssl",
    "nsenter": "util-linux",
}
_CGROUPS = Path("/sys/fs/cgroup")
_READY_S = 180
_COREDNS = "multi2vec-clip-test/coredns:test"


class LabError(Exception):
    """This machine cannot run the lab; the message says what is missing."""


class Lab:
    """A cluster; `with` starts it, and ends it.

    Attributes:
        kubectl: the command that reaches it.
        nodes: names of its nodes.
    """

    def __init__(self) -> None:
        _check_machine()
        self.nodes = ["node1", "node2"]
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self.kubectl: list[str] = []

    def __enter__(self) -> Lab:
        build()
        make_image(PAUSE, 'ENTRYPOINT ["sleep", "infinity"]\n')
        make_image(_COREDNS, 'ENTRYPOINT ["coredns"]\n', BUILD / "coredns")
        shutil.rmtree(STATE, ignore_errors=True)
        STATE.mkdir(parents=True)
        _write_certificates()
        try:
            for number, node in enumerate(self.nodes, 1):
                self._hold_namespaces(node, number)
            self._connect_nodes()
            self._start_control_plane()
            for number, node in enumerate(self.nodes, 1):
                self._start_node(node, number)
            self._wait_until_ready()
            self._load(self.nodes[0], _COREDNS)
            _output([*self.kubectl, "apply", "-f", str(MANIFESTS / "lab.yaml")])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        for process in self._running:
            process.wait()
        for group in [*_CGROUPS.glob(f"*/{CGROUP}"), *_CGROUPS.glob(CGROUP)]:
            folders = [group, *(path for path in group.rglob("*") if path.is_dir())]
            for folder in sorted(folders, reverse=True):
                _wait_for(partial(_is_removed, folder))
        shutil.rmtree(STATE, ignore_errors=True)

    def on_node(self, node: str, script: str) -> str:
        """Run a line of shell in a node's namespaces, and return what it prints."""
        return _output([*self._in(node), "sh", "-c", script])

    def load(self, image: str, *nodes: str) -> None:
        """Copy an image from Docker to nodes, or to all."""
        for node in nodes or self.nodes:
            self._load(node, image)

    def _load(self, node: str, image: str) -> None:
        socket = STATE / node / "containerd.sock"
        command = ["ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", "-"]
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
            subprocess.run(
                [*self._in(node), *command],
                stdin=save.stdout,
                stdout=subprocess.DEVNULL,
                check=True,
            )

    def _in(self, node: str) -> list[str]:
        return ["nsenter", "-t", self._pid(node), "-m", "-u", "-i", "-n", "-p", "--wd=/"]

    def _pid(self, node: str) -> str:
        """The process that holds a node's namespaces."""
        holder = self._holders[node].pid
        return Path(f"/proc/{holder}/task/{holder}/children").read_text().split()[0]

    def _hold_namespaces(self, node: str, number: int) -> None:
        """Make a node's namespaces, with folders of its own in place of this machine's."""
        folder = STATE / node
        for own in ("kubelet", "containerd", "run", "cni", "log", "pods"):
            (folder / own).mkdir(parents=True)
        script = f"""
            set -e
            mount --make-rprivate /
            mkdir -p /var/lib/kubelet /etc/cni/net.d /var/lib/cni /run/netns
            mount --bind {folder}/kubelet /var/lib/kubelet
            mount --make-shared /var/lib/kubelet
            mount --bind {folder}/cni /var/lib/cni
            mount -t tmpfs tmpfs /run/netns
            mount -t tmpfs tmpfs /var/log
            hostname {node}
            ip link set lo up
            echo 1 > /proc/sys/net/ipv4/ip_forward
            echo ready
            exec sleep infinity
        """
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"]
        holder = subprocess.Popen(
            ["unshare", *spaces, "--mount-proc", "sh", "-c", script], stdout=subprocess.PIPE
        )
        self._holders[node] = holder
        assert holder.stdout
        if holder.stdout.readline() != b"ready\n":
            raise LabError("the namespaces of a node could not be made")
        for controller in _controllers():
            (controller / CGROUP / node).mkdir(parents=True, exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty at first by cgroup v1
                if (controller / name).exists() and controller.name == "cpuset":
                    for group in (controller / CGROUP, controller / CGROUP / node):
                        (group / name).write_text((controller / name).read_text())

    def _connect_nodes(self) -> None:
        """Give each node an address, and a way to the pods of the other."""
        first, second = self.nodes
        self.on_node(first, "ip link add eth0 type veth peer name peer0")
        move = ["ip", "link", "set", "peer0", "netns", f"/proc/{self._pid(second)}/ns/net"]
        subprocess.run(["nsenter", "-t", self._pid(first), "-n", *move], check=True)
        self.on_node(second, "ip link set peer0 name eth0")
        for number, node in enumerate(self.nodes, 1):
            self.on_node(node, f"ip addr add {address(number)}/24 dev eth0; ip link set eth0 up")
        for node, other in ((first, 2), (second, 1)):
            self.on_node(node, f"ip route add {pods(other)} via {address(other)}")
            self.on_node(node, "ip route add default dev eth0")

    def _start_control_plane(self) -> None:
        """Start etcd, the API, the controllers and the scheduler on the first node."""
        node, pki = self.nodes[0], STATE / "pki"
        self._start(node, ["etcd", f"--data-dir={STATE}/etcd"])
        self._start(
            node,
            [
                f"{BUILD}/kube-apiserver",
                "--etcd-servers=http://127.0.0.1:2379",
                f"--advertise-address={address(1)}",
                f"--tls-cert-file={pki}/server.crt",
                f"--tls-private-key-file={pki}/server.key",
                f"--client-ca-file={pki}/ca.crt",
                f"--token-auth-file={pki}/tokens.csv",
                f"--service-account-key-file={pki}/server.key",
                f"--service-account-signing-key-file={pki}/server.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--allow-privileged",
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-client-certificate={pki}/server.crt",
                f"--kubelet-client-key={pki}/server.key",
                f"--requestheader-client-ca-file={pki}/ca.crt",
                "--requestheader-allowed-names=",
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                f"--proxy-client-cert-file={pki}/server.crt",
                f"--proxy-client-key-file={pki}/server.key",
            ],
        )
        kubeconfig = STATE / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(configuration.kubeconfig(pki)))
        self.kubectl = ["nsenter", "-t", self._pid(node), "-n", f"{BUILD}/kubectl"]
        self.kubectl += [f"--kubeconfig={kubeconfig}"]
        _wait_for(lambda: "ok" in _output([*self.kubectl, "get", "--raw=/readyz"], checks=False))
        self._start(
            node,
            [
                f"{BUILD}/kube-controller-manager",
                f"--kubeconfig={kubeconfig}",
                f"--service-account-private-key-file={pki}/server.key",
                f"--root-ca-file={pki}/ca.crt",
                "--use-service-account-credentials=false",
                "--leader-elect=false",
                "--horizontal-pod-autoscaler-sync-period=5s",
            ],
        )
        scheduler = [f"{BUILD}/kube-scheduler", f"--kubeconfig={kubeconfig}"]
        self._start(node, [*scheduler, "--leader-elect=false"])

    def _start_node(self, node: str, number: int) -> None:
        """Start containerd, the kubelet, the proxy and the firewall of a node."""
        folder, kubeconfig = STATE / node, STATE / "kubeconfig"
        (folder / "containerd.toml").write_text(configuration.containerd(folder))
        (folder / "net.d").mkdir()
        (folder / "net.d/10-bridge.conflist").write_text(json.dumps(configuration.network(number)))
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (folder / "kubelet.yaml").write_text(yaml.safe_dump(configuration.kubelet(node, folder)))
        self._start(node, ["containerd", "--config", str(folder / "containerd.toml")])
        _wait_for((folder / "containerd.sock").exists)
        self._load(node, PAUSE)
        self._start(
            node,
            [
                f"{BUILD}/kubelet",
                f"--kubeconfig={kubeconfig}",
                f"--config={folder}/kubelet.yaml",
                f"--node-ip={address(number)}",
                f"--hostname-override={node}",
                f"--node-labels=topology.kubernetes.io/zone=zone{number}",
            ],
        )
        _wait_for(lambda: node in _output([*self.kubectl, "get", "nodes"], checks=False))
        spec = json.dumps({"spec": {"podCIDR": pods(number), "podCIDRs": [pods(number)]}})
        _output([*self.kubectl, "patch", "node", node, "-p", spec])
        own = [f"--kubeconfig={kubeconfig}", f"--hostname-override={node}"]
        proxy = ["--proxy-mode=iptables", "--cluster-cidr=10.244.0.0/16"]
        self._start(node, [f"{BUILD}/kube-proxy", *own, *proxy, "--conntrack-max-per-core=0"])
        firewall = ["--run-firewall", "--run-router=false", "--run-service-proxy=false"]
        self._start(
            node,
            [f"{BUILD}/kube-router", *own, *firewall, "--service-cluster-ip-range=10.96.0.0/16"],
        )

    def _start(self, node: str, command: Sequence[str]) -> None:
        """Start a part in a node's namespaces, with a log of its own."""
        log = BUILD / f"{node}-{Path(command[0]).name}.log"
        with log.open("wb") as output:
            self._running.append(
                subprocess.Popen(
                    [*self._in(node), *command], stdout=output, stderr=subprocess.STDOUT
                )
            )

    def _wait_until_ready(self) -> None:
        def all_ready() -> bool:
            states = _output([*self.kubectl, "get", "nodes", "--no-headers"], checks=False)
            return len(re.findall(r" Ready ", states)) == len(self.nodes)

        _wait_for(all_ready)


def _check_machine() -> None:
    if os.geteuid():
        raise LabError("making a cluster of namespaces needs root")
    missing = sorted({package for name, package in PACKAGES.items() if not shutil.which(name)})
    if not Path("/usr/lib/cni/bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        raise LabError(f"programs are missing: apt-get install {' '.join(missing)}")
    if not shutil.which("go"):
        raise LabError("Kubernetes is built from its Go modules, which needs Go")


def _write_certificates() -> None:
    """Write one certificate, which is its own authority, and the token of an administrator."""
    pki = STATE / "pki"
    pki.mkdir()
    names = "DNS:kubernetes.default.svc,IP:10.96.0.1,IP:127.0.0.1"
    names += "".join(f",IP:{address(number)}" for number in (1, 2))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/O=system:masters/CN=lab", "-addext", f"subjectAltName={names}"]
    command += ["-addext", "extendedKeyUsage=serverAuth,clientAuth"]
    command += ["-keyout", str(pki / "server.key"), "-out", str(pki / "server.crt")]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copy(pki / "server.crt", pki / "ca.crt")
    (pki / "tokens.csv").write_text('lab,lab,lab,"system:masters"\n')


def _controllers() -> list[Path]:
    """The roots of the cgroup hierarchies: one by version 2, several by version 1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _is_removed(group: Path) -> bool:
    """Remove a cgroup; the kernel refuses it while processes of it are on their way out."""
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def _output(command: Sequence[str], *, checks: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if checks and done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return done.stdout


def _wait_for(holds: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + _READY_S
    while not holds():
        if time.monotonic() > ends_s:
            raise LabError(f"the cluster did not come up in {_READY_S} s: see {BUILD}/*.log")
        time.sleep(0.5)
