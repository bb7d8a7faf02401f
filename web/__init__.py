"""The edge: HTTP, its wire formats, the record of each request, and the page for browsers."""
