"""Converted models: their cache, the job that converts a model, and the parity check."""
