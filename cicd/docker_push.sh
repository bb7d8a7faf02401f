#!/usr/bin/env bash
# Push the image of one model; MODEL_TAG_NAME is its name, the model's variables say what it is.
set -euo pipefail
cd "$(dirname "$0")/.."
source cicd/arguments.sh
source cicd/push.sh
push "${MODEL_TAG_NAME:?names the model in the tag}" "${arguments[@]}"
