"""Every failure this service knows, each told in a sentence to the person who can mend it.

    ServiceError
    ├── InvalidInputError            the client sent something that cannot be vectorised
    │   └── RequestTooLargeError     ... or more of it than one request may hold
    ├── BackendError                 the model failed on an input that was fit
    └── StartupError                 the operator must mend something before the service can run
        ├── ConfigurationError       ... a setting
        ├── ModelFolderError         ... the model folder
        ├── DeviceUnavailableError   ... the device
        └── DownloadError            ... the download at build time

It knows no status codes: `app.py` holds the one table from error to status.
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of every error that this project raises on purpose."""


# Faults of a request.


class InvalidInputError(ServiceError):
    """The client sent something that cannot be vectorised."""

    def at(self, item: str) -> InvalidInputError:
        """Return the same error with the offending item, such as `images[1]`, named first."""
        return type(self)(f"{item}: {self}")


class RequestTooLargeError(InvalidInputError):
    """The request, or one item in it, is larger than the limits allow."""


# Faults of the service.


class BackendError(ServiceError):
    """The model failed on an input that was fit for it."""


# Faults that end a start.


class StartupError(ServiceError):
    """Something that the operator must mend before the service can run."""


class ConfigurationError(StartupError):
    """A setting has a value that does not fit."""


class ModelFolderError(StartupError):
    """The model folder holds no model, half of one, or one that cannot be loaded."""


class DeviceUnavailableError(StartupError):
    """The device that was asked for is not there, or cannot run the model."""


class DownloadError(StartupError):
    """The model that was asked for could not be brought into the model folder."""
