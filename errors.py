"""Every failure this service knows, each told in a sentence to the person who can fix it.

    ServiceError
    ├── InvalidInputError            the client sent something that cannot be vectorised
    │   ├── RequestTooLargeError     ... or more of it than one request may hold
    │   └── ContentEncodingError     ... or sent it compressed
    ├── NotServedError               the service will not answer this request, though it is fit
    │   ├── UnauthorizedError        ... as it brings no valid token
    │   ├── QueueFullError           ... as too much waits already
    │   ├── DeadlineExceededError    ... as its time was over before it was computed
    │   ├── SlowRequestError         ... as its time was over before it had arrived
    │   ├── ClientGoneError          ... as its client has gone
    │   └── UnhealthyError           ... as the service cannot work any more
    ├── BackendError                 the model failed on an input that was fit
    │   ├── DeviceMemoryError        ... as its device has too little memory for the batch
    │   └── DeviceLostError          ... and will until the process is started anew
    └── StartupError                 the operator must fix something before the service can run
        ├── ConfigurationError       ... a setting
        ├── ModelFolderError         ... the model folder
        ├── DeviceUnavailableError   ... the device
        ├── ConversionError          ... nothing: another runtime serves
        └── DownloadError            ... the download at build time

It knows no status codes: `web/errors.py` holds the one table from error to status.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

_PLACES_IN_CODE = ("Exception from ", "Check '")  # how OpenVINO's errors begin
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}

# Why a request got no vectors, in a word or two, for those who count. All there are.
Reason: TypeAlias = Literal[
    # the request
    "encoding",  # is compressed
    "body",  # is not the JSON that it should be
    "items",  # holds too many items
    "config",  # asks for another way of reading than the model knows
    "modality",  # holds items that the model does not read
    "work",  # would take longer than an answer may
    "too_large",  # has too many bytes
    "text_length",
    "base64",
    "file_size",
    "not_an_image",
    "broken_image",
    "slow_image",  # would take too long to read
    "pixels",  # has too many pixels, or none
    "format",  # of the pixels, which cannot be scaled
    # what it met
    "route",  # no such one, or not by this method
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
    """Base of every error that this project raises on purpose.

    Attributes:
        reason: what went wrong; one that answers no request has none of its own.
    """

    reason: Reason = "bug"

    def __copy__(self) -> ServiceError:
        """Return the same error without its traceback, for another request to raise."""
        copied = type(self).__new__(type(self), *self.args)
        copied.__dict__.update(self.__dict__)
        return copied


# Faults of a request.


class InvalidInputError(ServiceError):
    """The client sent something that cannot be vectorised.

    Args:
        sentence: what was wrong.
        reason: the same in a word or two.

    Attributes:
        where: the item or field at fault, which the sentence names as well; empty where it is the
            request as a whole.
    """

    def __init__(self, sentence: str, reason: Reason) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.where = ""

    def at(self, where: str) -> InvalidInputError:
        """Return the same error with what is at fault, such as `images[1]`, named first."""
        error = type(self)(f"{where}: {self}", self.reason)
        error.where = where
        return error


class RequestTooLargeError(InvalidInputError):
    """The request, or one item in it, is larger than the limits allow."""


class ContentEncodingError(InvalidInputError):
    """The body is compressed, or encoded in another way."""


# What keeps the service from answering a request that is fit.


class NotServedError(ServiceError):
    """The service will not answer a request, though nothing is wrong with its content."""


class UnauthorizedError(NotServedError):
    """The request brings no valid token."""

    reason = "token"


class QueueFullError(NotServedError):
    """Too much waits already for the request to be answered in time.

    Attributes:
        retry_after_s: when there may be room again.
    """

    reason = "overload"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(NotServedError):
    """The request's time was over before its vectors were computed."""

    reason = "timeout"


class SlowRequestError(NotServedError):
    """The request's time was over before it had arrived as a whole."""

    reason = "slow_body"


class ClientGoneError(NotServedError):
    """The client has gone before its answer."""

    reason = "gone"

    def __init__(self) -> None:
        super().__init__("the client has gone")


class UnhealthyError(NotServedError):
    """The service cannot compute anything until its process is started anew."""

    reason = "unhealthy"


# Faults of the service.


class BackendError(ServiceError):
    """The model failed on an input that was fit for it."""

    reason = "model"


class DeviceMemoryError(BackendError):
    """The device's memory does not hold a batch of this size."""


class DeviceLostError(BackendError):
    """The device has failed and stays unusable until the process is started anew."""


# Faults that end a start.


class StartupError(ServiceError):
    """Something that the operator must fix before the service can run."""


class ConfigurationError(StartupError):
    """A setting has a value that does not fit."""


class ModelFolderError(StartupError):
    """The model folder holds no model, half of one, or one that cannot be loaded."""


class DeviceUnavailableError(StartupError):
    """The device that was asked for is not there, or cannot run the model."""


class ConversionError(StartupError):
    """A model could not be converted for a runtime; another runtime can serve it."""


class DownloadError(StartupError):
    """The model that was asked for could not be brought into the model folder."""


# What the errors of others say.


def describe_error(error: BaseException) -> str:
    """Say in a few words why a file could not be written, whichever library tried."""
    if fault := disk_fault(error):
        return fault
    reason = error.strerror if isinstance(error, OSError) else None
    lines = (line.strip() for line in str(error).splitlines())
    telling = (line for line in lines if line and not line.startswith(_PLACES_IN_CODE))
    return reason or next(telling, type(error).__name__)


def disk_fault(error: BaseException) -> str | None:
    """Say that the disk is full, where that is the reason of an error."""
    for link in error_chain(error):
        if isinstance(link, OSError) and link.errno in _FULL:
            return _FULL[link.errno]
        if "No space left on device" in str(link):  # libraries in Rust have only this text
            return _FULL[errno.ENOSPC]
    return None


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error, and those that led to it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
