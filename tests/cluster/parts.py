"""The programs of the lab, built from Go modules: 15 minutes once, 8 GB of disk for a while."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.service import ROOT

KUBERNETES = "1.34.1"
BUILD = ROOT / "build/cluster"
_PROGRAMS = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "kube-proxy", "kubectl"),
)
_KEDA = "github.com/kedacore/keda/v2@v2.17.2"
_MODULES = {
    "coredns": ("github.com/coredns/coredns@v1.13.1", "."),
    "kube-router": ("github.com/cloudnativelabs/kube-router/v2@v2.1.0", "./cmd/kube-router"),
    "prometheus": ("github.com/prometheus/prometheus@v0.55.1", "./cmd/prometheus"),  # 2.55.1
    "adapter": ("sigs.k8s.io/prometheus-adapter@v0.12.0", "./cmd/adapter"),
    "helm": ("helm.sh/helm/v3@v3.18.4", "./cmd/helm"),
    "keda": (_KEDA, "./cmd/operator"),
    "keda-adapter": (_KEDA, "./cmd/adapter"),
}


def build() -> None:
    """Build what is not built yet, into build/cluster."""
    BUILD.mkdir(parents=True, exist_ok=True)
    whole = BUILD / "kubernetes"
    if not whole.exists():
        print("Building Kubernetes from its Go modules (5 minutes)", flush=True)
        source = BUILD / "source"
        source.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).parent / "programs/main.go", source)
        (source / "go.mod").write_text(_module_file())
        _go_build(whole, ".", source, "-mod=mod")
    for program in _PROGRAMS:
        if not (BUILD / program).exists():
            (BUILD / program).symlink_to(whole.name)
    for name, (module, package) in _MODULES.items():
        if not (BUILD / name).exists():
            print(f"Building {name}", flush=True)
            _go_build(BUILD / name, package, Path(_downloaded(module)["Dir"]), "-mod=mod")


def keda(kubectl: Sequence[str]) -> str:
    """Return KEDA's own manifests, without its webhooks."""
    folder = Path(_downloaded(_KEDA)["Dir"]) / "config/minimal"
    command = [*kubectl, "kustomize", str(folder)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def _go_build(program: Path, package: str, folder: Path, *options: str) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    command = ["go", "build", "-ldflags=-s -w", *options, "-o", str(program), package]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def _downloaded(module: str) -> dict[str, str]:
    """Download a module, and return where its parts lie."""
    command = ["go", "mod", "download", "-json", module]
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, str] = json.loads(printed)
    return found


def _module_file() -> str:
    """Write a go.mod that requires Kubernetes; of its staging modules the published versions."""
    own = Path(_downloaded(f"k8s.io/kubernetes@v{KUBERNETES}")["GoMod"]).read_text("utf-8")
    staged = f"v0.{KUBERNETES.split('.', 1)[1]}"
    required = dict(re.findall(r"^\t(\S+) (v\S+)", own, re.MULTILINE))
    lines = ["module kubernetes", "go 1.24.0", "require ("]
    lines += [f"k8s.io/kubernetes v{KUBERNETES}"]
    lines += [f"{name} {staged if at == 'v0.0.0' else at}" for name, at in required.items()]
    lines += [")", "replace ("]
    replaced = re.findall(r"^\t(k8s\.io/\S+) => \./staging", own, re.MULTILINE)
    lines += [f"{name} => {name} {staged}" for name in replaced]
    return "\n".join([*lines, ")", ""])
