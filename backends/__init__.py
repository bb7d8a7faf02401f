"""Loads models: detects a folder's model family, preprocesses inputs, and computes vectors.

This package has no HTTP requests and no queue. The service uses the types of `model.py` only.
"""

import sys

# Importing openvino sends usage data over the network, unless this package cannot be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
