"""Words that a model reads in pictures and clips: what they add to vectors, and what they cost.

    python benchmarks/words.py

Drawn scenes of the kind that the diagnostic draws, smolsight and its recipe. Each of 100 captions
is searched for among 100 pictures and each picture among the captions, and so are 40 clips; with
vectors alone, and with a lexical leg at several weights. The cost is the time of embedding pictures
with their words over the time of embedding them without, in seconds of all threads. Writes
benchmarks/results/words.json.
"""

import functools
import time
from random import Random

import numpy as np

from common import interleaved, median, ratio, save
from freeret import Embedder
from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.systems.registry import PromptedSystem
from freeret.evaluate.systems.vectors import encode_sides, rank
from freeret.reports import recipe_for
from probes import Backbone, Item
from probes.measure.diagnostic.sets import query_set
from probes.measure.reference import reference_vectors
from probes.model.vocabulary import Vocabulary
from probes.scenes.generator import SEEN, Clip, random_clip
from probes.stats import mean_interval

CLIPS, FRAMES = 40, 4
WEIGHTS = (0.1, 0.2, 0.3)
TIMED, REPEATS = 16, 7


def pairs() -> dict[str, tuple[list[Item], list[Item]]]:
    """Captions with the pictures and clips that they describe, by the kind of the media."""
    drawn, rng = query_set("scenes"), Random("clips")
    clips: dict[str, Clip] = {}
    while len(clips) < CLIPS:
        clip = random_clip(rng, SEEN)
        clips.setdefault(clip.caption(), clip)
    shown = [Item(images=clip.frames(FRAMES, rng=rng)) for clip in clips.values()]
    return {
        "picture": (drawn.queries, drawn.documents),
        "clip": ([Item(caption) for caption in clips], shown),
    }


def datasets() -> list[Dataset]:
    """Both directions of each kind; item i answers query i."""
    made = []
    for kind, (captions, media) in pairs().items():
        texts = [item.with_id(f"caption {i:03}") for i, item in enumerate(captions)]
        shown = [item.with_id(f"{kind} {i:03}") for i, item in enumerate(media)]
        for name, queries, documents in (
            (f"text→{kind}", texts, shown),
            (f"{kind}→text", shown, texts),
        ):
            right: Judgements = {
                str(query.id): {str(answer.id): 1}
                for query, answer in zip(queries, documents, strict=True)
            }
            made.append(Dataset(name, queries, documents, right, task="caption"))
    return made


def reciprocal_ranks(run: dict[str, dict[str, float]], dataset: Dataset) -> np.ndarray:
    """1 / rank of the answer of each query; ties count against it."""
    ranks = [
        sum(score >= run[query][answer] for score in run[query].values())
        for query, [answer] in dataset.judgements.items()
    ]
    return 1 / np.array(ranks)


def quality(backbone: Backbone) -> dict[str, dict[str, list[float]]]:
    """Mean reciprocal ranks and their paired gains over vectors alone, with 95% intervals."""
    system = PromptedSystem.of("recipe", backbone, recipe_for(backbone))
    encode = functools.partial(system.encode, task="caption")
    words = functools.cache(
        lambda ids, side: system.words([by_id[id] for id in ids], side, "caption")
    )
    reference, figures = reference_vectors(encode), {}
    for dataset in datasets():
        by_id = {item.id: item for item in (*dataset.queries, *dataset.documents)}
        _, queries, documents = encode_sides(encode, dataset)
        ranks = {
            weight: reciprocal_ranks(
                rank(
                    dataset, queries, documents, system.geometry, reference, weight,
                    lambda items, side: words(tuple(item.id for item in items), side),
                ),
                dataset,
            )
            for weight in (0.0, *WEIGHTS)
        }  # fmt: skip
        words.cache_clear()
        figures[dataset.name] = {"vectors": list(mean_interval(ranks[0.0]))}
        for weight in WEIGHTS:
            figures[dataset.name][f"weight {weight}"] = list(mean_interval(ranks[weight]))
            gain = mean_interval(ranks[weight] - ranks[0.0])
            figures[dataset.name][f"gain at weight {weight}"] = list(gain)
        for name, (mean, low, high) in figures[dataset.name].items():
            print(f"{dataset.name:14} {name:22} {mean:6.3f} [{low:6.3f}, {high:6.3f}]")
    return figures


def cost(backbone: Backbone) -> dict[str, object]:
    """Seconds of embedding pictures, without and with their words."""
    embedder = Embedder.from_recipe(backbone, recipe_for(backbone))
    pictures = query_set("scenes").documents[:TIMED]
    rows = [embedder.rows(picture) for picture in pictures]
    runs = {
        "vectors": lambda: embedder.encode_rows(rows),
        "vectors and words": lambda: embedder.launch(pictures, rows)(),
    }
    times = interleaved(runs, REPEATS, time.process_time)
    share = ratio(times, "vectors and words", "vectors")
    start = time.process_time()
    Vocabulary.of(backbone)
    once = time.process_time() - start
    print(f"{TIMED} pictures: {median(times['vectors']):.2f} s, with words {share:.3f} times that")
    return {"pictures": TIMED, "seconds": times, "with words": share, "vocabulary, once": once}


def main() -> None:
    backbone = Backbone.load("smolsight")
    figures = {"cost": cost(backbone), "quality": quality(backbone)}
    save("words", {"model": "smolsight", **figures})


if __name__ == "__main__":
    main()
