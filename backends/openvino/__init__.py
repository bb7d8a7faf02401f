"""OpenVINO: the store of converted models, and the runtime that serves them without torch."""
