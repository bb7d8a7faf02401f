"""From texts and images to arrays: tokenizers, numpy and Pillow, and no torch."""
