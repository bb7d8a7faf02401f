"""A loaded model at work: cache, admission, preprocessing, dynamic batching, health.

This package knows no HTTP and no model library.
"""
