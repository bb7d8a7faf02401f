#!/usr/bin/env bash
# Build the base of images with a model of one's own as LOCAL_REPO.
set -euo pipefail
cd "$(dirname "$0")/.."
source cicd/arguments.sh
"${BUILDER:-docker}" build "${arguments[@]}" --target custom \
  -t "${LOCAL_REPO:?names the image to build}" .
