"""Captioned pictures that come with the project: photographs and drawings of everyday things.

They are few, so the intervals are wide: a first look at a backbone's eyes that needs no files.
"""

from typing import Literal, get_args

from freeret.evaluate.datasets import Dataset
from probes import Item
from probes.data import PICTURES, pictures
from probes.errors import BadSetting

Kind = Literal["all", "photographs", "drawings"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TASKS: tuple[str, ...] = ("text→image", "image→text")


def captioned_pictures(kind: Kind) -> tuple[list[Item], list[Item]]:
    """The captions of a kind of pictures, and the pictures, in the same order. Both are called by
    the file of the picture; a picture's metadata say where it is from and under which licence."""
    rows = [row for row in pictures() if kind in ("all", f"{row['kind']}s")]
    captions = [Item(row["caption"], id=f"caption of {row['file']}") for row in rows]
    facts = ("kind", "source", "licence")
    shown = [
        Item(images=[PICTURES / row["file"]], id=row["file"], metadata={k: row[k] for k in facts})
        for row in rows
    ]
    return captions, shown


def load_pictures(kind: Kind, task: str) -> Dataset:
    """A task of TASKS over all pictures of a kind: each has one caption, and each caption one
    picture."""
    captions, shown = captioned_pictures(kind)
    queries, documents = (captions, shown) if task == "text→image" else (shown, captions)
    return Dataset(
        name=f"{kind}, {task}",
        queries=queries,
        documents=documents,
        judgements={str(q.id): {str(d.id): 1} for q, d in zip(queries, documents, strict=True)},
        task="caption",
        metrics=("P@1", "R@10", "RR"),
        group=task,
    )


def check_kind(kind: str) -> Kind:
    """Return the kind; raises BadSetting for one that there is not."""
    for known in KINDS:
        if kind == known:
            return known
    raise BadSetting(f"there are no pictures {kind!r}; write pictures:{', pictures:'.join(KINDS)}")
