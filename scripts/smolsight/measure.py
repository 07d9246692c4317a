"""How well smolsight's pictures are found by words, with and without what was learnt here.

    PYTHONPATH=scripts python -m smolsight.measure FOLDER [--training-free]

FOLDER has the layout that `freeret eval folder:` reads: documents/ and queries.jsonl. Without
training, pictures are named by the trunk's own classes alone. Prints Precision@1, Recall@10 and the
mean reciprocal rank by site, raw and with the mean of each modality subtracted, under PromptEOL.
"""

from pathlib import Path

import numpy as np
import torch
from cyclopts import App

from freeret.evaluate.loaders import load_folder
from probes import Backbone
from probes.embedded.smolsight.model import tower_of
from probes.geometry import unit
from probes.measure.diagnostic.sets import answer_ranks
from probes.model.batches.states import prompted_states
from probes.prompts import PROMPT_EOL

SITES = ("attn[-1]", "mlp[-1]", "norm")


app = App(help=__doc__)


@app.default
def main(folder: Path, *, training_free: bool = False) -> None:
    """Measure on the pictures and queries of `folder`; each query has one right picture."""
    backbone = Backbone.load("smolsight")
    if training_free:
        torch.nn.init.constant_(tower_of(backbone.model).concepts.others.bias, -torch.inf)
    dataset = load_folder(folder)
    place = {item.id: number for number, item in enumerate(dataset.documents)}
    judged = (dataset.judgements[str(query.id)] for query in dataset.queries)
    answers = np.array([place[id] for [id] in judged])
    texts = prompted_states(backbone, PROMPT_EOL, dataset.queries, "query", SITES, progress="texts")
    seen = prompted_states(
        backbone, PROMPT_EOL, dataset.documents, "document", SITES, progress="pictures"
    )
    for column, site in enumerate(SITES):
        raw = [states[:, column].float() for states in (texts, seen)]
        centred = [states - states.mean(0) for states in raw]
        for kind, (queries, documents) in {"raw": raw, "centred": centred}.items():
            ranks = answer_ranks((unit(queries) @ unit(documents).T).numpy(), answers)
            shares = " ".join(f"{(ranks <= k).mean():.3f}" for k in (1, 10))
            print(f"{site:9} {kind:8} {shares} {(1 / ranks).mean():.3f}")


if __name__ == "__main__":
    app()
