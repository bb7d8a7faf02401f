"""The interfaces: one module for each wire format."""
