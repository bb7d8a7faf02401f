#!/usr/bin/env bash
# Build the base of images with a model of one's own; IMAGE is its tag.
set -euo pipefail
cd "$(dirname "$0")/.."
docker build ${TORCH_INDEX_URL:+--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL"} \
  -f custom.Dockerfile -t "${IMAGE:?names the image to build}" .
