"""The machinery behind the service: model folders, decoding, batching and the model families."""
