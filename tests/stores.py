"""Model folders and stores that several tests make and compare."""

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import torch

from freeret.retriever import FreeRet
from freeret.store.table import ITEMS, Store
from probes import Backbone
from tests.models import TEXT, tokenizer


def save_tiny(folder: Path, **settings: Any) -> Path:
    """A tiny random Llama with its tokenizer, as a model folder."""
    TEXT["llama"]().save_pretrained(folder)
    tokenizer(**settings).save_pretrained(folder)
    return folder


def same_search(store: Path, reference: Path, backbone: Backbone) -> bool:
    """Whether two stores hold the same, and answer alike."""
    ours, theirs = Store.open(store), Store.open(reference)
    vectors, expected = ours.vectors(), theirs.vectors()
    found, wanted = (
        [hit for query in ("the word", "17 of") for hit in r.search(query, top_n=20)]
        for r in (FreeRet.load(store, backbone), FreeRet.load(reference, backbone))
    )
    scores, right = ([hit.score for hit in hits] for hits in (found, wanted))
    return (
        vectors.ids == expected.ids
        and ours.hashes() == theirs.hashes()
        and torch.allclose(vectors.vectors, expected.vectors, atol=1e-5)
        and [hit.id for hit in found] == [hit.id for hit in wanted]
        and np.allclose(scores, right, rtol=0, atol=1e-5)
    )


def without_words(store: Path) -> Path:
    """Make a store like those of earlier versions, whose items have no words."""
    database = lancedb.connect(str(store))
    items = database.open_table(ITEMS).to_arrow()
    database.create_table(ITEMS, items.drop_columns(["words"]), mode="overwrite")
    return store
