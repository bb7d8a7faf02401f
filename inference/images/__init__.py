"""Decodes and preprocesses images of requests, within limits."""
