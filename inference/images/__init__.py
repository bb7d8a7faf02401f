"""From the base64 of a request to a decoded picture, with every limit on the way."""
