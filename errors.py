"""All errors of this project; each message is written for the person who can fix the error.

    ServiceError
    ├── InvalidInputError            the client sent something that cannot be embedded
    │   ├── RequestTooLargeError     ... or sent more than one request may hold
    │   ├── ContentEncodingError     ... or sent it compressed
    │   └── UnknownModelError        ... or named a model that is not there
    ├── NotServedError               the service does not answer a valid request
    │   ├── UnauthorizedError        ... as it has no valid token
    │   ├── TryLaterError            ... and may later
    │   │   ├── QueueFullError       ... as the queue is full or too long
    │   │   └── NotLoadedError       ... as its model is not loaded, and cannot be now
    │   ├── DeadlineExceededError    ... as its time was over before it was computed
    │   ├── SlowRequestError         ... as its time was over before it had arrived
    │   ├── ClientGoneError          ... as its client has gone
    │   └── UnhealthyError           ... as the service cannot work any more
    ├── BackendError                 the model failed on a valid input
    │   ├── DeviceMemoryError        ... as its device has too little memory for the batch
    │   └── DeviceLostError          ... and will until the process is restarted
    └── StartupError                 the operator must fix something before the service can run
        ├── ConfigurationError       ... a setting
        ├── ModelFolderError         ... the model folder
        ├── DeviceUnavailableError   ... the device
        ├── DoesNotFitError          ... the memory for models
        ├── ConversionError          ... nothing: another runtime serves
        └── DownloadError            ... the download at build time

This module knows no status codes: `web/errors.py` holds the one table from error to status.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

_PLACES_IN_CODE = ("Exception from ", "Check '")  # in OpenVINO's errors
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}

# Why a request failed: the values of the metric label `reason`.
Reason: TypeAlias = Literal[
    # the request
    "encoding",  # is compressed
    "body",  # is not the JSON that it should be
    "items",  # holds too many items
    "config",  # has a parameter that the model does not know
    "modality",  # holds items that the model does not read
    "unknown_model",  # names a model that is not there
    "work",  # would take longer than an answer may
    "too_large",  # has too many bytes
    "text_length",
    "base64",
    "file_size",
    "not_an_image",
    "broken_image",
    "slow_image",  # would take too long to read
    "pixels",  # has too many pixels, or no pixels
    "format",  # has a pixel format that cannot be scaled
    # the service's state
    "route",  # unknown path or method
    "token",
    "overload",
    "slow_body",
    "timeout",
    "gone",
    "model",
    "unhealthy",
    "bug",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class ServiceError(Exception):
    """Base of all errors of this project.

    Attributes:
        reason: the metric label of errors that answer a request.
    """

    reason: Reason = "bug"

    def __copy__(self) -> ServiceError:
        """Return the same error without its traceback, for another request to raise."""
        copied = type(self).__new__(type(self), *self.args)
        copied.__dict__.update(self.__dict__)
        return copied


# Faults of a request.


class InvalidInputError(ServiceError):
    """The client sent something that cannot be embedded.

    Args:
        message: the message, for the client.
        reason: the metric label.

    Attributes:
        where: the item or field at fault, which the message names too; empty for the whole request.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason
        self.where = ""

    def at(self, where: str) -> InvalidInputError:
        """Return the same error for an item or field, such as `images[1]`, named in the message."""
        error = type(self)(f"{where}: {self}", self.reason)
        error.where = where
        return error


class RequestTooLargeError(InvalidInputError):
    """The request, or one item in it, is larger than the limits allow."""


class ContentEncodingError(InvalidInputError):
    """The body is compressed, or encoded in another way."""


class UnknownModelError(InvalidInputError):
    """The request names a model that the service does not have."""


# Reasons not to answer a valid request.


class NotServedError(ServiceError):
    """The service does not answer a valid request."""


class UnauthorizedError(NotServedError):
    """The request has no valid token."""

    reason = "token"


class TryLaterError(NotServedError):
    """The service may answer the same request later.

    Attributes:
        retry_after_s: seconds until the client should try again.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(TryLaterError):
    """The queue is full, or too long for an answer in time; or all bodies take too much memory."""

    reason = "overload"


class DeadlineExceededError(NotServedError):
    """The request timed out before its vectors were computed."""

    reason = "timeout"


class SlowRequestError(NotServedError):
    """The request timed out before its body had arrived."""

    reason = "slow_body"


class ClientGoneError(NotServedError):
    """The client closed the connection before the answer."""

    reason = "gone"

    def __init__(self) -> None:
        super().__init__("the client has gone")


class NotLoadedError(TryLaterError):
    """The model of a request is not loaded, and cannot be loaded now."""

    reason = "unhealthy"


class UnhealthyError(NotServedError):
    """The service cannot compute: it has not started, has ended, or must be restarted."""

    reason = "unhealthy"


# Faults of the service.


class BackendError(ServiceError):
    """The model failed on a valid input."""

    reason = "model"


class DeviceMemoryError(BackendError):
    """The device's memory does not hold a batch of this size."""


class DeviceLostError(BackendError):
    """The device failed, and is unusable until the process is restarted."""


# Faults that end startup.


class StartupError(ServiceError):
    """The operator must fix something before the service can start."""


class ConfigurationError(StartupError):
    """A setting is invalid."""


class ModelFolderError(StartupError):
    """The model folder holds no model, or the model is incomplete or cannot be loaded."""


class DeviceUnavailableError(StartupError):
    """The requested device is missing, or cannot run the model."""


class DoesNotFitError(StartupError):
    """A model needs more memory than MODELS_MEMORY_BYTES leaves for it."""


class ConversionError(StartupError):
    """A model could not be converted for a runtime; another runtime can serve it."""


class DownloadError(StartupError):
    """The requested model could not be downloaded."""


# Messages of errors of libraries.


def describe_error(error: BaseException) -> str:
    """Return the message of a library's error in one line; a full disk is named as such."""
    if fault := disk_fault(error):
        return fault
    reason = error.strerror if isinstance(error, OSError) else None
    lines = (line.strip() for line in str(error).splitlines())
    telling = (line for line in lines if line and not line.startswith(_PLACES_IN_CODE))
    return reason or next(telling, type(error).__name__)


def disk_fault(error: BaseException) -> str | None:
    """Return a message if the cause of an error is a full disk; else None."""
    for link in error_chain(error):
        if isinstance(link, OSError) and link.errno in _FULL:
            return _FULL[link.errno]
        if "No space left on device" in str(link):  # libraries in Rust have no errno
            return _FULL[errno.ENOSPC]
    return None


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
