"""The runtimes that serve a model: OpenVINO, torch, and lookup; `backends/load.py` chooses."""
