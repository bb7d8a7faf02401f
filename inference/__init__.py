"""A loaded model at work: cache, admission, preprocessing, dynamic batching, health.

It knows no HTTP and no model library.
"""
