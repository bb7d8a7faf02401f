#!/usr/bin/env bash
# Push the base of images with a model of one's own, as REMOTE_REPO:custom.
set -euo pipefail
cd "$(dirname "$0")/.."
source cicd/arguments.sh
source cicd/push.sh
push custom "${arguments[@]}" -f custom.Dockerfile
