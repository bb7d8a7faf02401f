"""The runtime of lookup models (model2vec), which need only numpy."""
