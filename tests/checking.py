"""Type hints and shapes of the packages, checked at every call while tests run."""

from typing import Any

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep3119Exception


def checked(function: Any) -> Any:
    """`function` with its hints and shapes checked at every call.

    A hint that is a plain Protocol cannot be checked at run time; such a function stays as it is.
    """
    try:
        return beartype(function)
    except BeartypeDecorHintPep3119Exception:
        return function
