"""ProbeReport: everything the probes found on one backbone, in one JSON file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from tqdm.auto import tqdm

from probes.arguments import check_choice
from probes.backbone import Backbone
from probes.diagnostic import Setting, best_setting, diagnose
from probes.errors import BadFile
from probes.files import read_format, write_json, wrong_field
from probes.framing import FrameBias, best_frame, framing_bias
from probes.injection import Injection, injection_shifts
from probes.lexicalization import PROMPT_KINDS, Curves, curves_by_prompt
from probes.reranking import Fusion, rerank_gain
from probes.summary import key_figures, part_table, report_html
from probes.synonyms import SynonymSimilarity, synonym_similarity

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = 2
PARTS = 6
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
    curves: dict[str, Curves]
    """By kind of prompt, in the order of PROMPT_KINDS."""
    synonyms: list[SynonymSimilarity]
    framing: list[FrameBias]
    diagnostic: list[Setting]
    injection: list[Injection]
    reranking: list[Fusion]
    """Empty when no frame discriminates."""
    seed: int
    timings: dict[str, float]
    """Seconds spent on each part."""

    @property
    def num_layers(self) -> int:
        return self.curves["word"].num_layers

    def __repr__(self) -> str:
        return f"ProbeReport({self.fingerprint['model']!r}, {self.num_layers} layers)"

    def __str__(self) -> str:
        """The figures that matter, a line each."""
        return "\n".join(f"{name}: {value}" for name, value in key_figures(self))

    def _repr_html_(self) -> str:
        return report_html(self)

    def to_dataframe(self, part: str) -> "DataFrame":
        """A part of the report as a pandas data frame.

        Args:
            part: `synonyms`, `framing`, `diagnostic`, `injection` or `reranking`, with a row per
                figure; or `curves`, with a row per kind of prompt, curve and layer.

        Returns:
            A data frame in which an interval NAME has the columns NAME, NAME_low and NAME_high.

        Raises:
            BadSetting: There is no such part, or pandas is not installed.
        """
        check_choice("part", part, ("curves", *_LISTS))
        return part_table(getattr(self, part))

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
                "curves": {kind: curves.to_json() for kind, curves in self.curves.items()},
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
                curves={kind: Curves.from_json(data["curves"][kind]) for kind in PROMPT_KINDS},
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
    bar = tqdm(
        total=PARTS,
        desc=f"probing {backbone.name}",
        bar_format="{desc}: {n_fmt} of {total_fmt} parts |{bar:20}| {elapsed}{postfix}",
        disable=not progress,
    )

    def timed(name: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        bar.set_postfix_str(name)
        with _clock(timings, name):
            found = measure(backbone, *arguments, seed=seed, progress=progress)
        bar.update()
        return found

    framing = timed("framing", framing_bias)
    diagnostic = timed("diagnostic", diagnose)
    frame = best_frame(framing)
    reranking = []
    if frame.discriminates:
        reranking = timed("reranking", rerank_gain, best_setting(diagnostic), frame.frame)
    else:
        bar.update()
    report = ProbeReport(
        fingerprint=backbone.fingerprint(),
        curves=timed("curves", curves_by_prompt),
        synonyms=timed("synonyms", synonym_similarity),
        framing=framing,
        diagnostic=diagnostic,
        injection=timed("injection", injection_shifts),
        reranking=reranking,
        seed=seed,
        timings=timings,
    )
    bar.close()
    return report


@contextmanager
def _clock(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - start, 2)
