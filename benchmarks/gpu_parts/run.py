"""What the parts share: sizes, inputs, timing in turn, and shares of the GEMM peak."""

import gc
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random
from typing import Any, NamedTuple

import torch
from PIL import Image

from common import median, ratio
from gpu_parts.models import Made
from probes import Backbone
from probes.data import paraphrases

OURS = "freeret"
Results = dict[str, Any]


class Scale(NamedTuple):
    """Sizes of everything that is measured."""

    texts: Mapping[str, tuple[int, int, int]]
    """Number of texts, and the range of their tokens."""
    rows: tuple[int, int]
    """Number and tokens of the texts of a single forward, without padding."""
    pictures: Mapping[str, Mapping[tuple[int, int], int]]
    """By model, number of pictures by width and height."""
    pairs: Mapping[str, tuple[int, int]]
    """Number of queries, and of candidates for each."""
    vectors: tuple[int, int]
    """Number and dimensions of the vectors that are searched."""
    searches: tuple[int, ...]
    """Queries at once."""
    gemm: int
    """Rows and columns of the matrix product that counts as the peak."""
    repeats: int


FULL = Scale(
    texts={"captions": (2048, 20, 40), "mixed": (384, 20, 500), "long": (64, 1000, 2000)},
    rows=(32, 512),
    pictures={"qwen": {(640, 480): 128, (1024, 768): 48}, "smolvlm": {(640, 480): 24}},
    pairs={"text query": (4, 50), "picture query": (2, 50), "few candidates": (20, 10)},
    vectors=(1_000_000, 3584),
    searches=(1, 64, 1000),
    gemm=8192,
    repeats=3,
)
TINY = Scale(
    texts={"captions": (6, 5, 9), "long": (2, 40, 60)},
    rows=(2, 20),
    pictures={"qwen": {(96, 64): 3}, "smolvlm": {(96, 64): 3}},
    pairs={"text query": (1, 4), "picture query": (1, 3)},
    vectors=(3000, 32),
    searches=(1, 4),
    gemm=64,
    repeats=1,
)


@dataclass
class Run:
    """One part as it runs: the device, the sizes, the model, and when it has to be done."""

    family: str
    device: str
    scale: Scale
    model: Made | None
    peak: float
    """The GEMM peak of the device in the model's number format, in FLOP/s."""
    ends: float

    @property
    def made(self) -> Made:
        assert self.model is not None, "this part has no model"
        return self.model

    @property
    def backbone(self) -> Backbone:
        return self.made.backbone

    def each(self, measurements: Mapping[Any, Any]) -> Iterator[tuple[Any, Any, float]]:
        """Key, value, and the seconds that are left for each of the measurements of a part."""
        for done, (key, value) in enumerate(measurements.items()):
            seconds = (self.ends - time.perf_counter()) / (len(measurements) - done)
            yield key, value, seconds


# ------------------------------------------------------------------------------------ inputs


def texts(made: Made, count: int, low: int, high: int, seed: int = 0) -> list[str]:
    """English of so many tokens each, cut from the bundled sentences in a random order."""
    pick = Random(count + 10_000 * seed)
    tokenizer, drawn = made.processor.tokenizer, list[str]()
    sentences = [row[key] for row in paraphrases() for key in ("sentence", "paraphrase")]
    while len(drawn) < count:
        length, ids = pick.randint(low, high), list[int]()
        while len(ids) < length:
            ids += tokenizer(f"{pick.choice(sentences)} ")["input_ids"]
        drawn.append(tokenizer.decode(ids[:length]).strip())
    return drawn


def pictures(size: tuple[int, int], count: int, seed: int) -> list[bytes]:
    """JPEG files of coloured clouds with some grain. Every seed gives others: none is cached."""
    rng, files = torch.Generator().manual_seed(seed), list[bytes]()
    while len(files) < count:
        coarse = torch.rand(1, 3, 12, 16, generator=rng)
        clouds = torch.nn.functional.interpolate(coarse, size[::-1], mode="bilinear")[0]
        grain = torch.rand(1, *size[::-1], generator=rng) * 0.1
        pixels = ((clouds * 0.9 + grain) * 255).byte().permute(1, 2, 0).contiguous()
        file = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


# ------------------------------------------------------------------------------------ timing


def rounds(
    ways: Mapping[str, Callable[[Any], Any]],
    warm_up: Any,
    fresh: Callable[[int], Any],
    repeats: int,
    limit: float,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time every way on the same inputs, in turn: one round at least, others while there is time.

    Args:
        ways: What is compared, by name.
        warm_up: Inputs of a first round that does not count.
        fresh: Gives the inputs of a round by its number.
        repeats: The most rounds.
        limit: Seconds.

    Returns:
        Seconds by way, and the errors of those that failed, such as for want of memory.
    """
    start, errors = time.perf_counter(), dict[str, str]()
    times = {name: list[float]() for name in ways}

    def run(name: str, given: Any) -> float | None:
        begin = time.perf_counter()
        try:
            ways[name](given)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
            torch.cuda.empty_cache()
            return None
        return time.perf_counter() - begin

    for name in ways:
        run(name, warm_up)
    warm = time.perf_counter()
    for repeat in range(repeats):
        given = fresh(repeat)
        gc.collect()
        for name in [name for name in ways if name not in errors]:
            if seconds := run(name, given):
                times[name].append(seconds)
        now = time.perf_counter()
        if now - start + (now - warm) / (repeat + 1) > limit:
            break
    return {name: some for name, some in times.items() if name not in errors}, errors


def summary(
    timed: tuple[Mapping[str, list[float]], Mapping[str, str]],
    count: int,
    flops: Mapping[str, float],
    peak: float,
) -> Results:
    """Rates and ratios of every way that `rounds` timed, and how much of the GEMM peak the useful
    work is, which is given in FLOPs by its kind."""
    times, errors = timed
    return {name: {"error": error} for name, error in errors.items()} | {
        name: {
            "seconds": some,
            "per_second": count / median(some),
            "slower_than_freeret": ratio(times, name, OURS) if OURS in times else None,
            **{kind: work / median(some) / peak for kind, work in flops.items()},
        }
        for name, some in times.items()
    }


# ------------------------------------------------------------------------------- useful work


def useful_tokens(groups: Sequence[Sequence[list[int]]]) -> int:
    """Tokens that have to be computed when what begins all rows of a group is computed once."""
    return sum(sum(map(len, rows)) - _shared(rows) * (len(rows) - 1) for rows in groups)


def _shared(rows: Sequence[list[int]]) -> int:
    """How many tokens begin all rows: those that begin the first and the last of them sorted."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(rows), max(rows), strict=False))
    return sum(1 for _ in same)


def tower_flops(made: Made, row: list[int]) -> float:
    """Matrix products of the tower for the pictures of a row of tokens, attention left out."""
    tokens = row.count(made.image_token)
    patches = tokens * made.patches_per_token
    return 2.0 * (made.block_weights * patches + made.merger_weights * tokens)
