#!/bin/sh
# Install requirements.txt by the pip that is named; from TORCH_INDEX_URL torch and torchvision, where
# it is set: torch's CPU flavour has an index of its own, and is without gigabytes of CUDA.
set -eu
cd "$(dirname "$0")/.."
pip=${1:?names pip, such as .venv/bin/pip}
if [ -n "${TORCH_INDEX_URL:-}" ]; then
  grep -oE '^(torch|torchvision)==[^ ;]+' requirements.txt |
    xargs "$pip" install --index-url "$TORCH_INDEX_URL"
fi
"$pip" install -r requirements.txt
