"""From the base64 of a request to a decoded image, with every limit on the way."""
