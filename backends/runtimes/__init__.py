"""The runtimes: OpenVINO, torch, and lookup; `backends/load.py` chooses one."""
