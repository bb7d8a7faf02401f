"""The shared cache: a second level of the vector cache, which outlives the process."""
