"""Converted models: the cache of them, and the jobs that convert a model and check the result."""
