#!/usr/bin/env bash
# Run the image LOCAL_REPO on PORT and ask it what smoke_test.py asks.
set -euo pipefail
cd "$(dirname "$0")/.."
port=${PORT:-8000}
container=$(docker run --detach --publish "$port:8080" "${LOCAL_REPO:?names the image to test}")
trap 'docker logs "$container"; docker rm --force "$container" > /dev/null' EXIT
python3 smoke_test.py "http://localhost:$port"
