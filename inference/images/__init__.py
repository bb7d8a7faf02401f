"""Decodes images of requests from base64, within limits."""
