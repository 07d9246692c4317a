"""How well smolsight's pictures are found by words, with and without what was learnt here.

    PYTHONPATH=scripts python -m smolsight.measure FOLDER [--training-free]

FOLDER has the layout that `freeret eval folder:` reads: documents/ and queries.jsonl. Without
training, pictures are named by the trunk's own classes alone. Prints Precision@1, Recall@10 and the
mean reciprocal rank by site, raw and with the mean of each modality subtracted, under PromptEOL.
"""

import json
from pathlib import Path

import torch
from cyclopts import App
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from probes import Backbone, Item, record
from probes.embedded.smolsight.model import tower_of
from probes.prompts import PROMPT_EOL

SITES = ("attn[-1]", "mlp[-1]", "norm")
BATCH = 16


def states(backbone: Backbone, items: list[Item]) -> Tensor:
    """States of items at SITES, [sites, items, hidden]."""
    parts = []
    for first in tqdm(range(0, len(items), BATCH)):
        batch = backbone.encode([PROMPT_EOL.apply(i) for i in items[first : first + BATCH]])
        found = record(backbone, batch, SITES)
        parts.append(torch.stack([found[site].float() for site in SITES]))
    return torch.cat(parts, 1)


def ranks(queries: Tensor, documents: Tensor, right: list[int], centred: bool) -> Tensor:
    """Place of the right document of each query, from 0, [queries]."""
    if centred:
        queries, documents = queries - queries.mean(0), documents - documents.mean(0)
    scores = normalize(queries, dim=-1) @ normalize(documents, dim=-1).T
    return (scores > scores.gather(1, torch.tensor(right)[:, None])).sum(1)


app = App(help=__doc__)


@app.default
def main(folder: Path, *, training_free: bool = False) -> None:
    """Measure on the pictures and queries of `folder`; each query has one right picture."""
    backbone = Backbone.load("smolsight")
    if training_free:
        torch.nn.init.constant_(tower_of(backbone.model).concepts.others.bias, -torch.inf)
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    files = sorted({name for query in queries for name in query["relevant"]})
    right = [files.index(query["relevant"][0]) for query in queries]
    pictures = [Item(images=[Image.open(folder / "documents" / name)]) for name in files]
    texts = states(backbone, [Item(query["text"]) for query in queries])
    seen = states(backbone, pictures)
    for place, site in enumerate(SITES):
        for centred in (False, True):
            place_of = ranks(texts[place], seen[place], right, centred)
            found = [(place_of < k).float().mean().item() for k in (1, 10)]
            reciprocal = (1 / (place_of + 1)).mean().item()
            kind = "centred" if centred else "raw"
            print(f"{site:9} {kind:8} {found[0]:.3f} {found[1]:.3f} {reciprocal:.3f}")


if __name__ == "__main__":
    app()
