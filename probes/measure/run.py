"""Run the probes, with one progress bar over all of them; finished parts are kept on disk."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from probes.display import Results
from probes.errors import BadFile
from probes.measure.cost import tokens_of, work_of
from probes.measure.diagnostic.extractions import diagnose
from probes.measure.diagnostic.hybrid import hybrid_gain, select_weight
from probes.measure.diagnostic.scores import select_extraction
from probes.measure.diagnostic.splitting import splitting_gain
from probes.measure.framing import framing_bias
from probes.measure.injection import injection_shifts
from probes.measure.judges.heads import relevance_heads
from probes.measure.lexicalization import curves_by_prompt
from probes.measure.parts import PARTS, PartName, with_needed
from probes.measure.reranking import Fusion, judges_of, rerank_gain
from probes.measure.synonyms import synonym_similarity
from probes.model.backbone import Backbone
from probes.model.batches.remembering import remembering
from probes.progress import listening
from probes.reports.report import ProbeReport, decisive, read_parts, write_parts

log = logging.getLogger(__name__)

DTYPES = ("bfloat16", "float16")
"""Dtypes that backbones are loaded in, besides float32."""


def probe(
    backbone: Backbone,
    *,
    seed: int = 0,
    progress: bool = False,
    keep: str | Path | None = None,
) -> ProbeReport:
    """Run all probes. This takes 20 to 60 minutes on two CPU cores for the embedded models.

    Args:
        backbone: The model to measure.
        seed: Seed of the bootstrap intervals.
        progress: Whether to show a bar, with the time left.
        keep: Folder to which each part is written when it is finished. An interrupted run resumes
            from it: parts of the same backbone and seed are not measured again.

    Returns:
        The report.
    """
    report = probe_parts(backbone, PARTS, seed=seed, progress=progress, keep=keep)
    rounded = {dtype: backbone.weights_digest(dtype) for dtype in DTYPES}
    return ProbeReport(**report, rounded=rounded)


def probe_parts(
    backbone: Backbone,
    parts: Collection[PartName],
    *,
    seed: int = 0,
    progress: bool = False,
    keep: str | Path | None = None,
) -> dict[str, Any]:
    """Run some of the probes of PARTS, and those that they need: reranking is measured with the
    best frame and at the extraction that the diagnostic supports. Arguments are those of `probe`.

    Returns:
        Fields of `ProbeReport` by name: the parts, and fingerprint, seed and timings.

    Raises:
        BadSetting: There is no such part.
    """
    wanted = with_needed(parts)
    report: dict[str, Any] = {"fingerprint": backbone.fingerprint(), "seed": seed, "timings": {}}
    folder = None if keep is None else Path(keep)
    for part, (value, seconds) in kept_parts(backbone, wanted, seed, folder).items():
        report[part] = value
        report["timings"][part] = seconds
    left: list[PartName] = [part for part in wanted if report.get(part) is None]
    with remembering(), _bar(backbone, left, progress) as within:
        for part in left:
            start = time.perf_counter()
            with within(part):
                value = _MEASURES[part](backbone, report, seed)
            seconds = round(time.perf_counter() - start, 2)
            report[part], report["timings"][part] = value, seconds
            if folder is not None:
                head = {"fingerprint": report["fingerprint"], "seed": seed}
                write_parts(
                    folder / f"{part}.json", {**head, "timings": {part: seconds}, part: value}
                )
    return report


def kept_parts(
    backbone: Backbone, parts: Sequence[PartName], seed: int, folder: Path | None
) -> dict[PartName, tuple[Any, float]]:
    """Parts that an earlier run on this backbone finished, each with its seconds. A file that
    cannot be read, or is of another backbone or seed, is ignored with a warning."""
    finished: dict[PartName, tuple[Any, float]] = {}
    wanted = decisive(backbone.fingerprint())
    for part in parts:
        path = None if folder is None else folder / f"{part}.json"
        if path is None or not path.is_file():
            continue
        try:
            kept = read_parts(path, [part])
            if kept["seed"] != seed or decisive(kept["fingerprint"]) != wanted:
                raise BadFile(f"{path} was measured on another backbone or with another seed")
            finished[part] = kept[part], float(kept["timings"][part])
        except (AttributeError, BadFile, KeyError, TypeError, ValueError) as error:
            log.warning("%s: %s is measured again", error, part)
    return finished


def _rerank(backbone: Backbone, report: Mapping[str, Any], seed: int) -> Results[Fusion]:
    """Gains of reranking by each judge that is worth measuring."""
    extraction = select_extraction(report["diagnostic"])
    lexical = select_weight(report["hybrid"])
    return Results(
        gain
        for judge in judges_of(report["framing"], report["heads"])
        for gain in rerank_gain(backbone, extraction, judge, lexical, seed=seed)
    )


_MEASURES: dict[PartName, Callable[[Backbone, Mapping[str, Any], int], Any]] = {
    "framing": lambda backbone, _, seed: framing_bias(backbone, seed=seed),
    "heads": lambda backbone, _, seed: relevance_heads(backbone, seed=seed),
    "diagnostic": lambda backbone, _, seed: diagnose(backbone, seed=seed),
    "splitting": lambda backbone, report, seed: splitting_gain(
        backbone, select_extraction(report["diagnostic"]), seed=seed
    ),
    "hybrid": lambda backbone, report, seed: hybrid_gain(
        backbone, select_extraction(report["diagnostic"]), seed=seed
    ),
    "reranking": _rerank,
    "curves": lambda backbone, _, seed: curves_by_prompt(backbone, seed=seed),
    "synonyms": lambda backbone, _, seed: synonym_similarity(backbone, seed=seed),
    "injection": lambda backbone, _, seed: injection_shifts(backbone, seed=seed),
}


@contextmanager
def _bar(
    backbone: Backbone, parts: Sequence[PartName], progress: bool
) -> Iterator[Callable[[PartName], Any]]:
    """One bar over all parts, in units of estimated work. It yields a context manager for the
    measurement of a part, in which every batch moves the bar, up to the end of the part's share."""
    work = {part: work_of(backbone, part) for part in parts}
    with tqdm(
        total=sum(work.values()),
        desc=f"probing {backbone.name}",
        bar_format="{desc}: {percentage:.0f}% |{bar:20}| {elapsed}, {remaining} left{postfix}",
        disable=not progress,
        miniters=0,
        smoothing=0,  # the mean rate: batches differ
    ) as bar:

        @contextmanager
        def within(part: PartName) -> Iterator[None]:
            end = bar.n + work[part]
            per_token = work[part] / max(1, tokens_of(backbone, part))
            bar.set_postfix_str(part)
            with listening(lambda count: bar.update(min(count * per_token, end - bar.n))):
                yield
            bar.update(end - bar.n)

        yield within
