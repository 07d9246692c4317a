"""ProbeReport: everything the probes found on one backbone, in one JSON file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from probes.backbone import Backbone
from probes.diagnostic import Setting, diagnose
from probes.errors import BadFile
from probes.files import read_format, write_json, wrong_field
from probes.framing import FrameBias, best_frame, framing_bias
from probes.injection import Injection, injection_shifts
from probes.lexicalization import Curves, lexicalization_curves
from probes.reranking import Fusion, rerank_gain
from probes.synonyms import SynonymSimilarity, synonym_similarity

FORMAT = 1
_LISTS: dict[str, TypeAdapter] = {
    "synonyms": TypeAdapter(list[SynonymSimilarity]),
    "framing": TypeAdapter(list[FrameBias]),
    "diagnostic": TypeAdapter(list[Setting]),
    "injection": TypeAdapter(list[Injection]),
    "reranking": TypeAdapter(list[Fusion]),
}


@dataclass(frozen=True)
class ProbeReport:
    """What `probe` returns; `save` and `load` write and read it."""

    fingerprint: dict[str, Any]
    curves: Curves
    synonyms: list[SynonymSimilarity]
    framing: list[FrameBias]
    diagnostic: list[Setting]
    injection: list[Injection]
    reranking: list[Fusion]
    """Empty when no frame discriminates."""
    seed: int
    timings: dict[str, float]
    """Seconds spent on each part."""

    def save(self, path: str | Path) -> Path:
        """Write the JSON file, whole or not at all."""
        lists = {
            name: adapter.dump_python(getattr(self, name), mode="json")
            for name, adapter in _LISTS.items()
        }
        return write_json(
            Path(path),
            {
                "format": FORMAT,
                "fingerprint": self.fingerprint,
                "seed": self.seed,
                "timings": self.timings,
                "curves": self.curves.to_json(),
                **lists,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "ProbeReport":
        """Read a saved report. Raises BadFile when it is missing, cut off or of another format."""
        data = read_format(path, FORMAT, "a probe report", "freeret probe")
        part = ""
        try:
            lists = {}
            for part, adapter in _LISTS.items():
                lists[part] = adapter.validate_python(data[part])
            part = "curves"
            return cls(
                fingerprint=data["fingerprint"],
                curves=Curves.from_json(data["curves"]),
                seed=data["seed"],
                timings=data["timings"],
                **lists,
            )
        except KeyError as error:
            raise BadFile(f"{path} is not a whole probe report: no {error}; probe again") from None
        except (AttributeError, TypeError, ValueError) as error:  # pydantic's is a ValueError
            raise BadFile(
                f"{path} is not a whole probe report ({part}: {wrong_field(error)}); probe again"
            ) from None


def probe(backbone: Backbone, *, seed: int = 0, progress: bool = False) -> ProbeReport:
    """Run all probes. A few minutes for a 135M model on two CPU cores."""
    timings: dict[str, float] = {}

    def timed(name: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        with _clock(timings, name):
            return measure(backbone, *arguments, seed=seed, progress=progress)

    framing = timed("framing", framing_bias)
    diagnostic = timed("diagnostic", diagnose)
    frame = best_frame(framing)
    reranking = []
    if frame.discriminates:
        setting = max(diagnostic, key=lambda s: s.reciprocal_rank.mean)
        reranking = timed("reranking", rerank_gain, setting, frame.frame)
    return ProbeReport(
        fingerprint=backbone.fingerprint(),
        curves=timed("curves", lexicalization_curves),
        synonyms=timed("synonyms", synonym_similarity),
        framing=framing,
        diagnostic=diagnostic,
        injection=timed("injection", injection_shifts),
        reranking=reranking,
        seed=seed,
        timings=timings,
    )


@contextmanager
def _clock(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - start, 2)
