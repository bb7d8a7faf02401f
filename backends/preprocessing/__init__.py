"""Input processors: they turn texts, pairs and images into arrays, without torch."""
