"""The demo model: a small CLIP of our own, trained on drawn scenes. See README.md."""
