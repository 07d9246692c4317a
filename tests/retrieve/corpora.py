"""Small corpora, and helpers that tests of the retriever share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from freeret.recipe import Recipe
from probes import Backbone

PLAIN = Recipe("e5v", "attn[-1]", "none", "mcq")


def texts(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"i{k:03}", "text": f"{k} of {'the word ' * (k % 5)}", "metadata": {"third": k % 3}}
        for k in range(count)
    ]


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """Count the tokens of every forward."""
    tokens: list[int] = []
    handle = backbone.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: tokens.append(args[0].numel())
    )
    try:
        yield tokens
    finally:
        handle.remove()


def ids(hits: list) -> list[str]:
    return [hit.id for hit in hits]
