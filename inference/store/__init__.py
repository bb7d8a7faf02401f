"""Vectors that outlive the process: a second level of the cache, shared by replicas."""
