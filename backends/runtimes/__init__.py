"""The runtimes: OpenVINO, torch, and lookup; `backends/replicas.py` chooses one."""
