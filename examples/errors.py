"""The one error of the example."""


class PhotosError(Exception):
    """Nothing can be imported or found; the message is a sentence that says what to do."""
