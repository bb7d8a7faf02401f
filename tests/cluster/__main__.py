"""Runs deploy/ in a Kubernetes of two nodes, and strikes at it while vectors are asked for.

    make test-cluster            by kind (https://kind.sigs.k8s.io), which pulls its images
    make test-cluster CLUSTER=lab    by Kubernetes' own programs, built from Go modules; needs root

16 senders in a pod send what Weaviate sends during an import, through the balancer, and check every
vector. At the end it prints a table of what was lost. It needs Docker, Helm, Go, 20 GB of disk and
an hour, so it is no part of `make test`. Names of trials as arguments run these alone.
WEAVIATE_CHART names a folder with Weaviate's chart, where Helm cannot fetch it; WEAVIATE_BINARY is
explained in tests/stand_ins.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.deployed import Deployed
from tests.cluster.deployments import fetch_from_hub, install_chart, serve_several
from tests.cluster.kind import Kind
from tests.cluster.lab import Lab, LabError
from tests.cluster.parts import BUILD
from tests.cluster.trials import LOSSES, Outcome
from tests.hub_models import small_hub
from tests.hub_server import serving
from tests.images import build_standard
from tests.service import ROOT
from tests.stand_ins import PYTHON, DockerError, check_docker, image_for

SERVICE = "multi2vec-clip-test/service:test"
TRIALS: dict[str, Callable[[Deployed], Outcome]] = {
    **LOSSES,
    "several models in one image": serve_several,
    "Weaviate by its own chart": install_chart,
    "a model from the hub": fetch_from_hub,
}
table: list[tuple[str, str, str]] = []
failed: list[str] = []


def run(name: str, deployed: Deployed) -> None:
    """Run a trial, and add to the table what came of it and the seconds that it took."""
    print(f"{name} ...", flush=True)
    started_s = time.monotonic()
    try:
        result, is_good = TRIALS[name](deployed)
    except (AssertionError, subprocess.SubprocessError) as error:
        result, is_good = f"{type(error).__name__}: {error}", False
    row = (name, result, f"{time.monotonic() - started_s:.0f}")
    print(f"  {row}", flush=True)
    table.append(row)
    if not is_good:
        failed.append(name)


def main() -> None:
    """Bring the cluster up, try everything, and print the table."""
    names = sys.argv[1:] or list(TRIALS)
    if unknown := set(names) - set(TRIALS):
        sys.exit(f"no such trial: {', '.join(sorted(unknown))}; there are {', '.join(TRIALS)}")
    try:
        check_docker("buildx")
        os.environ["PYTHON_IMAGE"] = image_for(PYTHON)
        with tempfile.TemporaryDirectory() as folder, serving(small_hub(Path(folder))) as hub:
            build_standard(SERVICE, ROOT, hub)
            with Lab() if os.environ.get("CLUSTER") == "lab" else Kind() as cluster:
                cluster.load(SERVICE)
                deployed = Deployed(cluster, SERVICE, hub, BUILD / "overlays")
                for name in names:
                    run(name, deployed)
    except (LabError, DockerError) as error:
        sys.exit(str(error))
    print("| what happened | result | seconds |\n|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in table))
    if failed:
        sys.exit(f"Not as it should be: {', '.join(failed)}")
    print("Nothing was lost that need not be.")


if __name__ == "__main__":
    main()
