"""The models: which family a folder holds, how inputs become arrays, and how they are computed.

It knows no request and no queue. The service sees nothing of it but `model.py`.
"""

import sys

# An import of openvino sends usage data over the network, unless this package is missing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
