"""Typed errors: each names the item or module at fault and says what to do.

Those that a handler of Python's own errors would expect inherit from these too.
"""


class FreeRetError(Exception):
    """Base of every error this project raises on purpose."""


class UnsupportedBackbone(FreeRetError):
    """The model's residual stream is not what the method needs, or was not confirmed to be."""


class BadItem(FreeRetError):
    """An item cannot be read or encoded.

    `item` is its id, or its place in a file or stream, where that is known. The message names it
    too, for people; programs read the attribute.
    """

    def __init__(self, message: str, item: str | None = None):
        super().__init__(message)
        self.item = item


class FetchError(FreeRetError):
    """An embedded backbone could not be fetched, verified or converted."""


class Mismatch(FreeRetError):
    """Something on disk was made with another backbone, recipe, dataset or settings."""


class StoreMismatch(Mismatch):
    """A store was made with another backbone, recipe or settings."""


class BackboneNotFound(FreeRetError):
    """No model under the given alias, folder or hub id."""


class BadFile(FreeRetError):
    """A report, recipe or result file cannot be read or does not say what it must."""


class StoreError(FreeRetError):
    """A store cannot be read or written; what was committed before stays as it was."""


class NotStored(StoreError, KeyError):
    """An id that the store does not hold."""

    __str__ = Exception.__str__  # a KeyError shows its message in quotation marks


class NotRecorded(FreeRetError, KeyError):
    """A site whose state was not recorded."""

    __str__ = Exception.__str__


class BadSetting(FreeRetError, ValueError):
    """A site, prompt, frame or option that does not exist."""


def one_line(error: BaseException, length: int = 300) -> str:
    """The message of an error in one line, or its type where it has none."""
    said = " ".join(str(error).split())
    return said[:length] or type(error).__name__
