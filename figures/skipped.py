"""Which sublayers does the next word need? Each of the last five layers without its attention or
its MLP.

    python figures/skipped.py --model smollm2-135m    # measures, and writes the file of the model
    python figures/skipped.py                         # prints the table of all files

The 200 prompts of figures/facts.csv (capitals, opposites, plurals, past tenses, colours,
categories, languages) are continued greedily by three tokens, and the first word is kept: with the
model as it is, and with what one sublayer writes skipped at all positions. Two shares with 95%
intervals: of all prompts, those with the same first word as before; and of the prompts that the
model as it is answers correctly, those that it still does. Writes figures/skipped_<model>.json.
"""

import csv
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import cyclopts
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from probes import Backbone, intervene, skip
from probes.files import read_json, write_json
from probes.stats import Interval, mean_interval

HERE = Path(__file__).parent
LAYERS = 5
TOKENS = 3
BATCH = 50
SUBLAYERS = [f"{kind}[{-layer}]" for layer in range(LAYERS, 0, -1) for kind in ("attn", "mlp")]


def main(*, model: str | None = None) -> None:
    if model:
        measure(model)
    table = Table("backbone, first word (95% interval)", *SUBLAYERS)
    for file in sorted(HERE.glob("skipped_*.json")):
        found = read_json(file)
        name = file.stem.removeprefix("skipped_")
        for kind in ("same", "correct"):
            shares = [
                f"{Interval(*found['skipped'][site][kind]):.2f}" if site in found["skipped"] else ""
                for site in SUBLAYERS
            ]
            table.add_row(f"{name}, {kind}", *shares)
    Console(width=200).print(table)


def measure(model: str) -> None:
    """Goes on where it stopped."""
    backbone, path = Backbone.load(model), HERE / f"skipped_{Path(model).name}.json"
    with (HERE / "facts.csv").open(newline="") as file:
        facts = list(csv.DictReader(file))
    prompts = [fact["prompt"] for fact in facts]
    answers = np.array([fact["answer"].casefold() for fact in facts])
    found = read_json(path) if path.exists() else {}
    if found.get("weights") != (weights := backbone.weights_digest()):
        usual = first_words(backbone, prompts)
        found = {
            "weights": weights,
            "correct": mean_interval(np.array(usual) == answers).to_list(),
            "words": usual,
            "skipped": {},
        }
    usual = np.array(found["words"])
    for site in SUBLAYERS:
        if site not in found["skipped"]:
            words = first_words(backbone, prompts, site)
            still = (np.array(words) == answers)[usual == answers]
            found["skipped"][site] = {
                "same": mean_interval(np.array(words) == usual).to_list(),
                "correct": mean_interval(still).to_list(),
                "words": words,
            }
            write_json(path, found)


@torch.no_grad()
def first_words(
    backbone: Backbone, prompts: Sequence[str], skipped: str | None = None
) -> list[str]:
    """The first word of each continuation, in lower case, or "" where it holds none."""
    words = []
    with intervene(backbone, {skipped: skip}) if skipped else nullcontext():
        for start in range(0, len(prompts), BATCH):
            batch = backbone.encode(prompts[start : start + BATCH])
            inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
            tokens = backbone.model.generate(
                **inputs,
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=backbone.encoder.pad_id,
            )
            for row in tokens[:, inputs["input_ids"].shape[1] :]:
                text = backbone.tokenizer.decode(row, skip_special_tokens=True)
                words.append(next(iter(re.findall(r"[^\W\d_]+", text)), "").casefold())
    return words


if __name__ == "__main__":
    cyclopts.run(main)
