"""The service half: queues, batches, admission, health and memory of vectors.

It knows no HTTP and no model library.
"""
