#!/usr/bin/env bash
# Build the image of one model as LOCAL_REPO; the model's variables name it:
#   LOCAL_REPO=clip CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 cicd/build.sh
# TARGET=cuda builds the one for GPUs, TARGET=serving the base without a model.
set -euo pipefail
cd "$(dirname "$0")/.."
source cicd/arguments.sh
"${BUILDER:-docker}" build "${arguments[@]}" --target "${TARGET:-service}" -t "${LOCAL_REPO:?names the image to build}" .
