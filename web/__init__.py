"""What the edge is made of: the wire format, the record of each request, and the debug page."""
