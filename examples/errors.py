"""The error of the example."""


class PhotosError(Exception):
    """The import or the search failed; the message has advice for the user."""
