"""Build time: downloads a model by its name into the model folder."""
