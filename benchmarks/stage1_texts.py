"""Stage 1 on texts of mixed length, against sentence-transformers on equal weights and prompts.

    python benchmarks/stage1_texts.py --data captions=100 --data abstracts=20

Each --data is a folder in BEIR layout and how many of its documents to draw. Both libraries get
the same texts in the same order, in the same prompts, and read the last token;
sentence-transformers sorts by length itself and takes its best batch size. Interleaved, medians.
Only the tokens of the prompts count, padding never does. Writes
benchmarks/results/stage1_texts.json.
"""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
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
from freeret.embedder import Embedder
from freeret.evaluate.loaders import load_beir
from probes import Backbone, as_items
from probes.model.batches.prefix import common_prefix
from probes.model.encoding import Row

REPEATS, SIZES = 5, (8, 16, 32, 64)
OURS = "freeret"
PLAIN_TEXT: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""The prompts already hold the chat template; without this it would be put around them again."""


def draw(data: list[str]) -> list[str]:
    """So many texts of each folder, shuffled together."""
    pick, texts = random.Random(0), []
    for source in data:
        folder, count = source.rsplit("=", 1)
        texts += [item.text for item in pick.sample(load_beir(folder).documents, int(count))]
    pick.shuffle(texts)
    return texts


def sentence_transformer(backbone: Backbone) -> SentenceTransformer:
    folder = backbone.model.config._name_or_path
    reader = Transformer(folder, modality_config=PLAIN_TEXT, module_output_name="token_embeddings")
    pooling = Pooling(backbone.hidden_size, "lasttoken")
    return SentenceTransformer(modules=[reader, pooling], device=str(backbone.device))


def tokenised(embedder: Embedder, texts: list[str]) -> tuple[list[Row], list[str]]:
    """The embedder's prompts with the texts inside, as tokens and as strings that give them."""
    rows = [embedder.rows(item)[0] for item in as_items(texts)]
    tokenizer = embedder.backbone.tokenizer
    prompts = tokenizer.batch_decode([row.ids for row in rows])
    if tokenizer(prompts, add_special_tokens=False)["input_ids"] != [row.ids for row in rows]:
        raise SystemExit("a prompt read back is not the same tokens: nothing fair to compare")
    return rows, prompts


def ways(
    embedder: Embedder, other: SentenceTransformer, texts: list[str]
) -> dict[str, Callable[[], Tensor]]:
    """Ours, then sentence-transformers with each batch size; vectors `[texts, hidden]`."""
    prompts = tokenised(embedder, texts)[1]

    def theirs(size: int) -> Callable[[], Tensor]:
        return lambda: other.encode(
            prompts, batch_size=size, convert_to_tensor=True, show_progress_bar=False
        )

    found = {f"sentence-transformers, {size} a batch": theirs(size) for size in SIZES}
    return {OURS: lambda: embedder.encode(texts)} | found


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest distance of two vectors of one text, relative to their length."""
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Stage 1 against sentence-transformers.")
    parser.add_argument("--data", action="append", required=True, metavar="FOLDER=COUNT")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # one way alone, for its peak memory
    options = parser.parse_args()

    texts = draw(options.data)
    backbone = Backbone.load(options.model)
    embedder, other = Embedder(backbone), sentence_transformer(backbone)
    runs = ways(embedder, other, texts)
    if options.peak:
        report_peak(runs[options.peak])
        return

    few = ways(embedder, other, texts[::4])
    theirs = fastest({name: run for name, run in few.items() if name != OURS})
    norm = Embedder(backbone, "norm", embedder.prompts[0])
    apart = difference(norm.encode(texts[::4]), few[theirs]())

    times = interleaved({name: runs[name] for name in (OURS, theirs)}, REPEATS)
    peak = gemm_peak()
    rows = tokenised(embedder, texts)[0]
    tokens, shared = sum(map(len, rows)), len(common_prefix(rows))
    own = tokens - shared * (len(rows) - 1)  # the common beginning computed once
    flops = {
        OURS: matrix_flops(backbone.model, own, last_mlp=False),
        theirs: matrix_flops(backbone.model, tokens),
    }
    figures = {
        name: {
            "tokens_per_second": tokens / median(times[name]),
            "share_of_gemm_peak": flops[name] / median(times[name]) / peak,
            "extra_peak_mb": peak_memory(Path(__file__), *sys.argv[1:], "--peak", name),
        }
        for name in times
    }
    print(f"{len(texts)} texts, {tokens} tokens, of which {own} need computing when the common")
    print(f"beginning of {shared} tokens is computed once\n")
    print(f"{'':36} {'tokens/s':>9} {'of GEMM peak':>13} {'extra MB':>9}")
    for name, (speed, share, memory) in ((n, f.values()) for n, f in figures.items()):
        print(f"{name:36} {speed:9.0f} {share:13.2f} {memory:9.0f}")
    speed_up = ratio(times, theirs, OURS)
    print(f"\nspeed-up {speed_up:.2f}; vectors at norm differ by at most {apart:.1e}")
    save(
        "stage1_texts",
        {
            "texts": len(texts),
            "tokens": tokens,
            "tokens_computed": own,
            "seconds": times,
            "gemm_peak": peak,
            "ways": figures,
            "speed_up": speed_up,
            "difference_at_norm": apart,
        },
    )


if __name__ == "__main__":
    main()
