"""From texts and pictures to arrays: tokenizers, numpy and Pillow, and no torch."""
