"""Hits and stores as lines that other programs read."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from freeret.retriever import Hit
from freeret.store import Store
from probes import Item


def summary(item: Item) -> str:
    """An item in one line: its text, and what stands for its media."""
    return " ".join(
        part.value if part.kind == "text" else f"[{part.kind}{_where(part.value)}]"
        for part in item.parts
    )


def _where(value: object) -> str:
    return f" {value}" if isinstance(value, Path) else ""


def as_json(hit: Hit) -> str:
    """One hit as one line of JSON; media by path say where they are."""
    return json.dumps(
        {
            "id": hit.id,
            "score": hit.score,
            "stage1_score": hit.stage1_score,
            "stage2_score": hit.stage2_score,
            "text": hit.item.text,
            "media": [
                {"kind": p.kind, "path": str(p.value) if isinstance(p.value, Path) else None}
                for p in hit.item.media
            ],
            "metadata": dict(hit.item.metadata),
        },
        ensure_ascii=False,
    )


def as_trec(query_id: str, hits: Sequence[Hit], tag: str) -> Iterator[str]:
    """TREC run lines: query, Q0, id, rank, score, tag. White space in ids becomes `_`."""
    for rank, hit in enumerate(hits, start=1):
        yield f"{query_id} Q0 {'_'.join(hit.id.split())} {rank} {hit.score:.9f} {tag}"


def store_facts(store: Store) -> list[list[str]]:
    """What `freeret info` shows."""
    backbone, recipe = store.identity["backbone"], store.recipe()
    geometry = store.geometry()
    return [
        ["items", str(len(store))],
        *([f"  {signature}", str(n)] for signature, n in store.signatures().items()),
        ["dimension", str(store.dimension)],
        ["model", f"{backbone['model']} ({backbone['architecture']}, {backbone['dtype']})"],
        ["weights", backbone["weights"]],
        ["prompt, site", f"{recipe['prompt']}, {recipe['site']}"],
        ["geometry", f"{recipe['geometry']} ({'fitted' if geometry else 'to be fitted'})"],
        ["frame", str(recipe["frame"])],
        *([f"  {name}", version] for name, version in backbone["versions"].items()),
    ]
