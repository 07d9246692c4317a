"""Typed errors, whose messages name the item or module at fault and say what to do.

Some also inherit from one of Python's own errors, so that code that handles these goes on working.
"""


class FreeRetError(Exception):
    """Base of every error this project raises on purpose."""


class UnsupportedBackbone(FreeRetError):
    """The residual stream of the model does not have the expected form."""


class BadItem(FreeRetError):
    """An item cannot be read or encoded.

    Attributes:
        item: Its id, or its place in a file or stream, where that is known. Programs should read
            it here, and not from the message.
    """

    def __init__(self, message: str, item: str | None = None):
        super().__init__(message)
        self.item = item


class FetchError(FreeRetError):
    """An embedded backbone could not be fetched, verified or converted."""


class Mismatch(FreeRetError):
    """Two things that must agree do not: a result, a folder of states or another process is of
    another backbone, recipe, dataset or settings than those in use."""


class StoreMismatch(Mismatch):
    """The Mismatch of a store: it was made with another backbone, recipe or settings."""


class BackboneNotFound(FreeRetError):
    """No model under the given alias, folder or hub id."""


class BadFile(FreeRetError):
    """A report, recipe or result file cannot be read, or its content is not valid."""


class StoreError(FreeRetError):
    """A store cannot be read or written; earlier commits are not affected."""


class NotStored(StoreError, KeyError):
    """An id is not in the store."""

    __str__ = Exception.__str__  # a KeyError shows its message in quotation marks


class NotRecorded(FreeRetError, KeyError):
    """The states at a site were not recorded."""

    __str__ = Exception.__str__


class BadSetting(FreeRetError, ValueError):
    """A site, prompt, frame or option does not exist, or does not take its value."""


def one_line(error: BaseException, length: int = 300) -> str:
    """The message of an error on one line, or its type where it has no message."""
    message = " ".join(str(error).split())
    return message[:length] or type(error).__name__
