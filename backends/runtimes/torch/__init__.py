"""The torch runtime (eager): for GPUs, and for models that are not converted."""
