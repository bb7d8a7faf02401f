#!/usr/bin/env bash
# Build the image of one model: the reference's variables name it, IMAGE is its tag.
#   IMAGE=my/clip:1 CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 cicd/build.sh
set -euo pipefail
cd "$(dirname "$0")/.."
arguments=()
for name in CLIP_MODEL_NAME TEXT_MODEL_NAME CLIP_MODEL_TYPE OPEN_CLIP_MODEL_NAME \
  OPEN_CLIP_PRETRAINED SIGLIP_MODEL_NAME TRUST_REMOTE_CODE TORCH_INDEX_URL; do
  [ -z "${!name:-}" ] || arguments+=(--build-arg "$name=${!name}")
done
docker build "${arguments[@]}" -t "${IMAGE:?names the image to build}" .
