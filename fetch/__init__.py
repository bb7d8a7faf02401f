"""Downloads a model by its name into the model folder, at build time."""
