#!/usr/bin/env bash
# Push the bases of images with a model of one's own: REMOTE_REPO:custom, which converts and serves
# (its torch is that of TORCH_INDEX_URL), and REMOTE_REPO:serving, which serves what was converted.
set -euo pipefail
cd "$(dirname "$0")/.."
source cicd/arguments.sh
source cicd/push.sh
push custom linux/amd64,linux/arm64 "${arguments[@]}" --target custom
push serving linux/amd64,linux/arm64 "${arguments[@]}" --target serving
