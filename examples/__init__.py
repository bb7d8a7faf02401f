"""Examples for Weaviate; they do not import this service."""
