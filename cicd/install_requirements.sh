#!/bin/sh
# Install requirements.txt by the command that is named; from TORCH_INDEX_URL torch and torchvision,
# where it is set: torch's CPU flavour has an index of its own, and is without gigabytes of CUDA.
set -eu
cd "$(dirname "$0")/.."
: "${1:?names what installs, such as .venv/bin/pip install}"
if [ -n "${TORCH_INDEX_URL:-}" ]; then
  grep -oE '^(torch|torchvision)==[^ ;]+' requirements.txt |
    xargs "$@" --index-url "$TORCH_INDEX_URL"
fi
"$@" -r requirements.txt
