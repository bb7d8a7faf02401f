"""Runs deploy/ in a Kubernetes of two nodes, and strikes at it while vectors are asked for.

    make test-cluster            by kind (https://kind.sigs.k8s.io), which pulls its images
    make test-cluster CLUSTER=lab    by Kubernetes' own programs, built from Go modules; needs root

16 senders in a pod send what Weaviate sends during an import, through the balancer, and check every
vector. At the end it prints a table of what was lost. It needs Docker, 20 GB of disk and half an
hour, so it is no part of `make test`. Names of trials as arguments run these alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.cluster.kind import Kind
from tests.cluster.lab import Lab, LabError
from tests.cluster.parts import BUILD
from tests.cluster.trials import TRIALS, Deployed
from tests.hub_models import small_hub
from tests.hub_server import serving
from tests.images import build_standard
from tests.service import ROOT
from tests.stand_ins import PYTHON, DockerError, check_docker, image_for

SERVICE = "multi2vec-clip-test/service:test"


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
        cluster = Lab() if os.environ.get("CLUSTER") == "lab" else Kind()
        with cluster:
            deployed = Deployed(cluster, SERVICE, BUILD)
            for name in names:
                deployed.run(name)
    except (LabError, DockerError) as error:
        sys.exit(str(error))
    print("| what happened | result | seconds |\n|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in deployed.table))
    if deployed.failed:
        sys.exit(f"Not as it should be: {', '.join(deployed.failed)}")
    print("Nothing was lost that need not be.")


if __name__ == "__main__":
    main()
