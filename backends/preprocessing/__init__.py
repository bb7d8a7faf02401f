"""Input processors: from texts, pairs and images to arrays, without torch."""
