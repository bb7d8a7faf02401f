#!/usr/bin/env bash
# Push an image of one model; MODEL_TAG_NAME is its name, the model's variables say what it is.
# TARGET is `service`, which serves on CPUs, or `cuda`, whose tag ends in -cuda.
set -euo pipefail
cd "$(dirname "$0")/.."
source cicd/arguments.sh
source cicd/push.sh
case ${TARGET:-service} in
  service) push "${MODEL_TAG_NAME:?names the model in the tag}" linux/amd64,linux/arm64 "${arguments[@]}" ;;
  cuda) push "${MODEL_TAG_NAME:?names the model in the tag}-cuda" linux/amd64 --target cuda "${arguments[@]}" ;;
  *) echo "No such target: $TARGET" >&2 && exit 1 ;;
esac
