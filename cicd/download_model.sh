#!/usr/bin/env bash
# Fetch the model that the variables name into ./models, as an image build does.
# PYTHON names the Python that has requirements.txt, such as .venv/bin/python.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" download.py
