"""Build time: from the name of a model to its files in the model folder."""
