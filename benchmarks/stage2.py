"""Stage 2: judging the candidates of a query, against whole prompts and sentence-transformers.

    python benchmarks/stage2.py captions

The folder is in BEIR layout; each query gets 50 candidates drawn from its documents. All ways read
the very same tokens with the same weights: the Reranker (multiple choice), whole prompts with the
logits of every position, and sentence-transformers' CrossEncoder, which reads the last position;
these two sort by length and take their best batch size. Interleaved, medians. Writes
benchmarks/results/stage2.json.
"""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from torch import Tensor

from common import (
    fastest,
    gemm_peak,
    interleaved,
    matrix_flops,
    median,
    peak_memory,
    ratio,
    report_peak,
    save,
)
from freeret.evaluate.loaders import load_beir
from freeret.reranker import Reranker
from probes import FRAMES, Backbone, Item
from probes.measure.framing import Labels
from probes.model.batches.prefix import common_prefix
from probes.model.encoding import Row

CANDIDATES, REPEATS, SIZES = 50, 5, (8, 16, 32)
FRAME = FRAMES["mcq"]
OURS, WHOLE, CROSS = "freeret", "whole prompts, all logits", "sentence-transformers"
PLAIN_TEXT: Any = {"text": {"method": "forward", "method_output_name": "logits"}}
"""The prompts already hold the chat template; without this it would be put around them again."""

Pair = tuple[Item, Item]


def draw(folder: str, queries: int) -> list[list[Pair]]:
    """The pairs of so many queries, 50 candidates each."""
    pick, data = random.Random(0), load_beir(folder)
    return [
        [(query, candidate) for candidate in pick.sample(data.documents, CANDIDATES)]
        for query in pick.sample(data.queries, queries)
    ]


def tokenised(backbone: Backbone, pairs: list[Pair]) -> tuple[list[Row], list[str]]:
    """The reranker's prompts, as tokens and as strings that give these tokens."""
    rows = [backbone.row(FRAME.apply(*pair)) for pair in pairs]
    prompts = backbone.tokenizer.batch_decode([row.ids for row in rows])
    again = backbone.tokenizer(prompts, add_special_tokens=False)["input_ids"]
    if again != [row.ids for row in rows]:
        raise SystemExit("a prompt read back is not the same tokens: nothing fair to compare")
    return rows, prompts


def cross_encoder(backbone: Backbone, true_id: int, false_id: int) -> CrossEncoder:
    reader = Transformer(
        backbone.model.config._name_or_path,
        transformer_task="text-generation",
        modality_config=PLAIN_TEXT,
        module_output_name="causal_logits",
    )
    return CrossEncoder(
        modules=[reader, LogitScore(true_id, false_id)],
        device=str(backbone.device),
        activation_fn=torch.nn.Identity(),
    )


@torch.no_grad()
def label_logits(backbone: Backbone, prompts: list[str], size: int, ids: list[int]) -> Tensor:
    """Plain transformers: whole left-padded prompts, all logits; `[prompts, labels]`."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = torch.empty(len(prompts), len(ids))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        inputs = backbone.tokenizer(
            [prompts[i] for i in chosen],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        ).to(backbone.device)
        found[chosen] = backbone.model(**inputs, use_cache=False).logits[:, -1, ids].float().cpu()
    return found


class Ways:
    """What is compared, on one backbone; each judges query after query."""

    def __init__(self, backbone: Backbone):
        self.backbone, self.labels = backbone, Labels.of(backbone, FRAME)
        self.reranker = Reranker(backbone, FRAME)
        self.ids = [*self.labels.positive, *self.labels.negative]
        self.cross = cross_encoder(backbone, self.labels.positive[0], self.labels.negative[0])

    def runs(self, queries: list[list[Pair]]) -> dict[str, Callable[[], Tensor]]:
        """Ours, then the others with each batch size."""
        prompts = [tokenised(self.backbone, pairs)[1] for pairs in queries]
        flat = [pair for pairs in queries for pair in pairs]

        def whole(size: int) -> Callable[[], Tensor]:
            return lambda: torch.cat(
                [label_logits(self.backbone, part, size, self.ids) for part in prompts]
            )

        def cross(size: int) -> Callable[[], Tensor]:
            # A pair whose second text is empty is read as the first alone.
            return lambda: torch.cat(
                [
                    self.cross.predict(
                        [(prompt, "") for prompt in part],
                        batch_size=size,
                        convert_to_tensor=True,
                        show_progress_bar=False,
                    ).cpu()
                    for part in prompts
                ]
            )

        found = {OURS: lambda: torch.from_numpy(self.reranker.margins(flat))}
        found |= {f"{WHOLE}, {size} a batch": whole(size) for size in SIZES}
        return found | {f"{CROSS}, {size} a batch": cross(size) for size in SIZES}


def main() -> None:
    parser = argparse.ArgumentParser(description="Stage 2 against whole prompts.")
    parser.add_argument("data", help="a folder in BEIR layout")
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # one way alone, for its peak memory
    options = parser.parse_args()

    queries = draw(options.data, options.queries)
    ways = Ways(Backbone.load(options.model))
    backbone, runs = ways.backbone, ways.runs(queries)
    if options.peak:
        report_peak(runs[options.peak])
        return

    one = ways.runs(queries[:1])
    whole, cross = (
        fastest({name: run for name, run in one.items() if name.startswith(kind)})
        for kind in (WHOLE, CROSS)
    )
    times = interleaved({name: runs[name] for name in (OURS, whole, cross)}, REPEATS)
    peak = gemm_peak()

    logits = runs[whole]().double()
    positive, negative = logits.split([len(ways.labels.positive), len(ways.labels.negative)], -1)
    reference = positive.logsumexp(-1) - negative.logsumexp(-1)
    single = positive[:, 0] - negative[:, 0]
    differences = {
        OURS: (runs[OURS]() - reference).abs().max().item(),
        cross: (runs[cross]() - single).abs().max().item(),
    }

    rows = [tokenised(backbone, pairs)[0] for pairs in queries]
    tokens = sum(len(row) for part in rows for row in part)
    own = tokens - sum(len(common_prefix(part)) * (len(part) - 1) for part in rows)
    head = 2.0 * backbone.model.get_output_embeddings().weight.numel()
    pairs = len(queries) * CANDIDATES
    flops = {
        OURS: matrix_flops(backbone.model, own),
        whole: matrix_flops(backbone.model, tokens) + head * tokens,
        cross: matrix_flops(backbone.model, tokens) + head * pairs,
    }
    figures = {
        name: {
            "pairs_per_second": pairs / median(times[name]),
            "slower_than_freeret": ratio(times, name, OURS),
            "share_of_gemm_peak": flops[name] / median(times[name]) / peak,
            "extra_peak_mb": peak_memory(Path(__file__), *sys.argv[1:], "--peak", name),
        }
        for name in times
    }
    print(
        f"{len(queries)} queries, {CANDIDATES} candidates each: {tokens} tokens, of which {own} need"  # noqa: E501
    )
    print("computing when the common beginning of a query's prompts is computed once\n")
    print(f"{'':40} {'pairs/s':>8} {'slower':>7} {'of GEMM peak':>13} {'extra MB':>9}")
    for name, (speed, slower, share, memory) in ((n, f.values()) for n, f in figures.items()):
        print(f"{name:40} {speed:8.1f} {slower:7.2f} {share:13.2f} {memory:9.0f}")
    print("\nlargest difference of the margin from whole prompts:")
    for name, value in differences.items():
        print(f"{name:40} {value:8.1e}")
    save(
        "stage2",
        {
            "queries": len(queries),
            "candidates": CANDIDATES,
            "tokens": tokens,
            "tokens_computed": own,
            "seconds": times,
            "gemm_peak": peak,
            "ways": figures,
            "difference_of_margin": differences,
        },
    )


if __name__ == "__main__":
    main()
