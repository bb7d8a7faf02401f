"""The demo model: a small CLIP, trained on drawn scenes. See README.md."""
