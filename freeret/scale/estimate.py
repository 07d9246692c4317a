"""How long a corpus will take and what it will occupy, before any of it is embedded.

Items are counted by modality signature from the listing and the rows of tables; no picture is
opened for that. A seeded sample of each signature goes through the real processor, for its tokens,
and as much of it through the model as a second of measuring needs. One commit to a new store is
timed. Then the formula of `freeret/scale/sizing.py` holds.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.reports import known_report
from freeret.reranker import Reranker
from freeret.scale.sizing import Sizing, rate
from freeret.sources import tables
from freeret.sources.files import PDF, File, Listing, page_count
from freeret.store.indexing import BLOCK
from freeret.store.payload import Record, pack
from freeret.store.table import Store
from probes import Backbone, Item, as_item
from probes.errors import BadItem
from probes.media.formats import kind_of
from probes.model.batches.prefix import common_prefix
from probes.model.encoding import Row

SAMPLE = {"text": 64}
"""Items of a signature that are tokenised."""
OTHERS = 16
"""The same of signatures with media, which are decoded and processed."""
OTHER = Item("Rain")
ROW_BYTES = 100
"""Of a stored item besides its payload and its vector: id, hash, signature."""


@dataclass(frozen=True)
class Part:
    """All items of one modality signature."""

    signature: str
    items: int
    tokens: float
    """Of one item that pass through the model, on average over the sample."""
    items_per_second: float
    """On this device, processor and tower included."""
    hours: float


@dataclass(frozen=True)
class Estimate:
    """Needs of a corpus with one backbone on one device. Bytes are plain bytes."""

    model: str
    device: str
    parts: list[Part]
    unreadable: int
    """Sampled items that cannot be read; the others stand for them."""
    hours: float
    written_per_second: float
    """Items that one store takes, one commit at a time, however many devices there are."""
    disk: int
    memory: int
    """To search without reading from the disk, beside the model."""
    weights: int
    """Bytes of the model's weights."""
    pairs_per_second: float | None = None
    rerank_hours: float | None = None
    price: float | None = None
    """Of all hours, in the currency that was given per hour."""
    passed_over: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Files and rows of tables that are bad and were left out, by name, each with the reason."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    backbone: Backbone,
    listing: Listing,
    *,
    rerank: int = 0,
    queries: int = 0,
    price: float | None = None,
    seed: int = 0,
) -> Estimate:
    """Count, sample, measure.

    Args:
        backbone: The model that will embed the items, on the device that is measured.
        rerank: Candidates of each query that will be reranked.
        price: Of one hour of this device.

    Raises:
        BadItem: Nothing in the sample of a signature can be read, such as pictures by a backbone
            that reads text only; or a row of a table is bad, and the listing skips none.
    """
    skipped = {bad.item or "": str(bad) for bad in listing.bad}
    counts, samples = _counted(listing, Random(seed), skipped)
    report = known_report(backbone)
    recipe = Recipe.from_report(report) if report is not None else Recipe.paper()
    embedder = Embedder.from_recipe(backbone, recipe)
    parts, bad, disk, readable = [], 0, 0, list[Item]()
    for signature, count in counts.items():
        sample, errors = _read(listing, samples[signature], embedder)
        bad += len(errors)
        if not sample:
            raise errors[0]
        part, payload = _measured(embedder, signature, count, sample)
        parts.append(part)
        disk += Sizing(count, part.items_per_second, embedder.dimension, payload).disk
        readable += [item for item, _ in sample]
    written = _written_per_second(embedder.dimension)
    hours = sum(part.hours for part in parts) + Sizing(sum(counts.values()), written, 0).hours
    pairs = rerank_hours = None
    if rerank and queries and readable:
        pairs = _pairs_per_second(backbone, recipe, readable)
        rerank_hours = Sizing(rerank * queries, pairs, 0).hours
    weights = sum(w.numel() * w.element_size() for w in backbone.model.parameters())
    return Estimate(
        model=backbone.name,
        device=str(backbone.device),
        parts=parts,
        unreadable=bad,
        hours=hours,
        written_per_second=written,
        disk=disk,
        memory=4 * embedder.dimension * sum(counts.values()),
        weights=weights,
        pairs_per_second=pairs,
        rerank_hours=rerank_hours,
        price=None if price is None else price * (hours + (rerank_hours or 0)),
        passed_over=dict(listing.passed_over),
        skipped=skipped,
    )


Handle = Item | tuple[File, str]
"""An item, or a file that is read when it is sampled."""


def _counted(
    listing: Listing, rng: Random, skipped: dict[str, str]
) -> tuple[Counter[str], dict[str, list[Handle]]]:
    """The number of items of every signature, and a sample of each: reservoirs (Vitter 1985).
    Bad rows are added to `skipped`."""
    counts, samples = Counter[str](), dict[str, list[Handle]]()
    for signature, handle, pages in _handles(listing, skipped):
        size = SAMPLE.get(signature, OTHERS)
        kept = samples.setdefault(signature, [])
        counts[signature] += pages
        place = rng.randrange(counts[signature])
        if len(kept) < size:
            kept.append(handle)
        elif place < size:
            kept[place] = handle
    for kept in samples.values():
        rng.shuffle(kept)
    return counts, samples


def _handles(listing: Listing, skipped: dict[str, str]) -> Iterator[tuple[str, Handle, int]]:
    """Signature of every item without opening its media; a PDF stands for all its pages."""
    for file, name in listing.files:
        path = str(getattr(file, "path", file))
        if tables.is_table(path):
            for item in listing.source.read(file, name):
                if isinstance(item, BadItem):
                    skipped[item.item or ""] = str(item)
                else:
                    yield item.signature, item, 1
        elif path.lower().endswith(PDF):
            yield "image", (file, name), page_count(file)
        else:
            yield kind_of(path) or "text", (file, name), 1


def _read(
    listing: Listing, handles: list[Handle], embedder: Embedder
) -> tuple[list[tuple[Item, list[Row]]], list[BadItem]]:
    """Sampled items with their rows, and the errors of those that cannot be read."""
    found: list[tuple[Item, list[Row]]] = []
    errors: list[BadItem] = []
    for handle in handles:
        try:
            item = handle if isinstance(handle, Item) else next(listing.source.read(*handle))
            if isinstance(item, BadItem):
                raise item
            found.append((item, embedder.rows(item)))
        except BadItem as error:
            errors.append(error)
    return found, errors


def _measured(
    embedder: Embedder, signature: str, count: int, sample: list[tuple[Item, list[Row]]]
) -> tuple[Part, int]:
    """Hours of all items like these, and the bytes that one of them takes beside its vector."""
    items, rows = [item for item, _ in sample], [rows for _, rows in sample]
    # With a text that is none of them, lest a lone item shares all of itself.
    shared = len(common_prefix([row for some in (*rows, embedder.rows(OTHER)) for row in some]))

    def passing(sample: list[list[Row]]) -> int:
        return sum(len(row) - shared for some in sample for row in some)

    lengths = [passing([some]) for some in rows]
    tokens = sum(lengths) / len(lengths)
    embedder.encode_rows(rows[:1])  # the first forward traces, and proves the shared prefix
    waiting = list(zip(items, lengths, strict=True))
    waiting = waiting[1:] or waiting

    def some(number: int) -> list[tuple[Item, int]]:
        taken, waiting[:] = waiting[:number], waiting[number:]
        return taken

    def embed(chosen: Sequence[tuple[Item, int]]) -> int:
        embedder.encode([item for item, _ in chosen])
        return sum(length for _, length in chosen)

    _forget_media(embedder.backbone)
    speed = rate(some, embed, 1, (len(waiting) + 1) // 2) / tokens
    packed = map(pack, items)
    written = sum(len(p.parts) + sum(map(len, p.blobs)) + len(p.metadata) for p in packed)
    written += sum(len(item.text.encode()) for item in items)  # its words, compressed, and an index
    part = Part(signature, count, tokens, speed, Sizing(count, speed, 0).hours)
    return part, ROW_BYTES + written // len(items)


def _forget_media(backbone: Backbone) -> None:
    """Empty the cache of media: in a corpus every picture is new, and is read and processed."""
    if backbone.encoder.perception is not None:
        backbone.encoder.perception.cache.clear()


def _written_per_second(dimension: int) -> float:
    """Items that a new store takes in a second, committed as Ray's actors do: block by block."""
    vector = np.ones(dimension, np.float32)
    with TemporaryDirectory() as folder:
        store = Store.create(folder, {}, dimension)

        def rows(number: int) -> list[Record]:
            start = len(store)
            ids = [f"{start + place:09}" for place in range(number)]
            return [Record(id, "0" * 64, "text", "[]", [], "{}", vector) for id in ids]

        store.write(rows(1))  # the first commit makes the indexes

        def commit(records: Sequence[Record]) -> int:
            store.write(records, store.version)
            return len(records)

        return rate(rows, commit, BLOCK, BLOCK)


def _pairs_per_second(backbone: Backbone, recipe: Recipe, items: list[Item]) -> float:
    """Pairs that the reranker judges in a second: each with a sampled item as the candidate."""
    judge = Reranker(backbone, recipe.frame or "mcq")
    query = as_item(items[0].text[:200] or "a question")
    judge.predict([(query, items[0])])

    def predict(chosen: Sequence[Item]) -> int:
        _forget_media(backbone)
        judge.predict([(query, item) for item in chosen])
        return len(chosen)

    return rate(lambda number: items[:number], predict, 4, len(items))
