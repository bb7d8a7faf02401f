"""Runs in a pod: a hub with one model, until its input ends.

python -m tests.cluster.hub
"""

import sys
from pathlib import Path

from tests.hub_server import Hub, Repository, serving

MODEL = "tests/golden/sentence_transformers_0_CLIPModel/clip"  # relative to the code of the tests
PORT = 443  # which deploy/kubernetes/model-from-hub.yaml opens

if __name__ == "__main__":
    folder = Path(__file__).parent.parent.parent / MODEL
    repositories = {"sentence-transformers/clip-ViT-B-32": Repository.of_folders(folder)}
    with serving(Hub(repositories), ("0.0.0.0", PORT)):
        print("serving", flush=True)
        sys.stdin.read()
