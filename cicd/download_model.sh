#!/usr/bin/env bash
# Fetch the model that the variables name into ./models, as an image build does.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" download.py
