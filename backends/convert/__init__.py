"""The conversion of a model for OpenVINO, in a process of its own, and the proof of it."""
