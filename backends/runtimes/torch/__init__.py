"""Eager torch: the devices, and the runtime for whatever is not converted."""
