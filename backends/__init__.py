"""The model half: which family a folder holds, its inputs, and the networks that compute them.

It knows no request and no queue; `model.py` is what the service half sees of it.
"""

import sys

# A mere import of openvino reports to its makers over the network, unasked; where this package of
# theirs is not to be had, it does not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
