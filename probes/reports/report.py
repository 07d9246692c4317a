"""ProbeReport: the results of all probes on one backbone, in one JSON file.

A file may also hold only some of the parts, which `read_parts` reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from probes.arguments import check_choice
from probes.display import Results
from probes.errors import BadFile
from probes.files import read_format, read_json, write_json, wrong_field
from probes.measure.diagnostic.hybrid import Hybrid
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.splitting import Splitting
from probes.measure.framing import FrameBias
from probes.measure.injection import Injection
from probes.measure.judges.heads import NO_HEADS, RelevanceHeads
from probes.measure.lexicalization import PROMPT_KINDS, Curves
from probes.measure.parts import PARTS, PartName
from probes.measure.reranking import Fusion
from probes.measure.synonyms import SynonymSimilarity
from probes.reports.summary import key_figures, part_table, report_html

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = 3
EMPTY: dict[str, Any] = {
    **{part: Results() for part in PARTS}, "curves": {}, "heads": NO_HEADS,
}  # fmt: skip
"""What stands for a part that was not measured."""
_ADAPTERS: dict[str, TypeAdapter] = {
    "synonyms": TypeAdapter(list[SynonymSimilarity]),
    "framing": TypeAdapter(list[FrameBias]),
    "heads": TypeAdapter(RelevanceHeads),
    "diagnostic": TypeAdapter(list[DiagnosticScore]),
    "splitting": TypeAdapter(list[Splitting]),
    "hybrid": TypeAdapter(list[Hybrid]),
    "injection": TypeAdapter(list[Injection]),
    "reranking": TypeAdapter(list[Fusion]),
}


@dataclass(frozen=True)
class ProbeReport:
    """The results of `probe`; `save` and `load` write and read them. Its lists are `Results`, which
    show themselves as tables."""

    fingerprint: dict[str, Any]
    curves: dict[str, Curves]
    """By kind of prompt, in the order of PROMPT_KINDS."""
    synonyms: list[SynonymSimilarity]
    framing: list[FrameBias]
    diagnostic: list[DiagnosticScore]
    splitting: list[Splitting]
    """By length of the passages that long documents are read in."""
    hybrid: list[Hybrid]
    """By query set and weight of the lexical score."""
    injection: list[Injection]
    reranking: list[Fusion]
    """By judge, query set and weight. The judges are the best frame, unless it is at chance, the
    likelihood, and the best attention head."""
    seed: int
    timings: dict[str, float]
    """Seconds spent on each part."""
    rounded: dict[str, str] = field(default_factory=dict)
    """Checksums of the weights as each dtype rounds them: a backbone that is loaded in another
    dtype is known by them. Reports of earlier versions have none."""
    heads: RelevanceHeads = NO_HEADS
    """Which attention heads know relevance. Reports of earlier versions do not say."""

    @property
    def num_layers(self) -> int:
        return self.fingerprint["layers"]

    def __repr__(self) -> str:
        return f"ProbeReport({self.fingerprint['model']!r}, {self.num_layers} layers)"

    def __str__(self) -> str:
        """The key figures, one per line."""
        return "\n".join(f"{name}: {value}" for name, value in key_figures(self))

    def _repr_html_(self) -> str:
        return report_html(self)

    def to_dataframe(self, part: str | None = None) -> "DataFrame":
        """A part of the report as a pandas data frame.

        Args:
            part: `synonyms`, `framing`, `heads`, `diagnostic`, `hybrid`, `injection` or
                `reranking`, with a row per figure; or `curves`, with a row per kind of prompt,
                curve and layer.

        Returns:
            A data frame in which an interval NAME has the columns NAME, NAME_low and NAME_high.

        Raises:
            BadSetting: No part is named, there is none of this name, or pandas is not installed.
        """
        name = check_choice("part", part or "", ("curves", *_ADAPTERS))
        return part_table(self.heads.heads if name == "heads" else getattr(self, name))

    @classmethod
    def of_parts(cls, fields: Mapping[str, Any]) -> "ProbeReport":
        """A report of what was measured, by the names of its fields; the other parts are empty."""
        return cls(**{**EMPTY, **fields})

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all, that `load` reads; returns its path."""
        return write_parts(path, vars(self))

    @classmethod
    def load(cls, path: str | Path) -> "ProbeReport":
        """Read a saved report.

        Raises:
            BadFile: The file is missing, cut off or of another format, or lacks a part.
        """
        return cls(**read_parts(path, PARTS))


def write_parts(path: str | Path, report: Mapping[str, Any]) -> Path:
    """Write a report, or some of its parts, whole or not at all, from fields of `ProbeReport` by
    name; parts may be missing."""
    written = {"format": FORMAT, **report}
    for part in PARTS:
        if part == "curves" and part in report:
            written[part] = {kind: curves.to_json() for kind, curves in report[part].items()}
        elif part in report:
            written[part] = _ADAPTERS[part].dump_python(report[part], mode="json")
    return write_json(Path(path), written)


def read_parts(path: str | Path, parts: Iterable[PartName]) -> dict[str, Any]:
    """Read parts of a file that `write_parts` or `ProbeReport.save` wrote, which need not hold the
    others.

    Returns:
        Fields of `ProbeReport` by name: the parts, and fingerprint, seed, timings and rounded.

    Raises:
        BadFile: The file is missing, cut off or of another format, or lacks one of the parts.
    """
    data = read_format(path, FORMAT, "a probe report", "freeret probe")
    part = ""
    try:
        fields = {name: data[name] for name in ("fingerprint", "seed", "timings")}
        fields["rounded"] = data.get("rounded", {})
        for part in parts:
            if part == "heads" and part not in data and len(data.keys() & set(PARTS)) > 1:
                continue  # of an earlier version
            fields[part] = _part_of(data, part)
    except KeyError as error:
        present = [name for name in PARTS if name in data]
        if part and part not in data and len(present) == 1:
            raise BadFile(f"{path} holds {present[0]} only; give {part}.json") from None
        raise BadFile(f"{path} is not a whole probe report: no {error}; probe again") from None
    except (AttributeError, TypeError, ValueError) as error:  # pydantic's is a ValueError
        raise BadFile(
            f"{path} is not a whole probe report ({part}: {wrong_field(error)}); probe again"
        ) from None
    return fields


def read_available(path: str | Path) -> tuple[ProbeReport, dict[PartName, str]]:
    """A report with those parts that its file, of any version, holds and this version can read.

    Returns:
        The report, whose other parts are empty, and for each of those the reason.

    Raises:
        BadFile: The file is missing or cut off, or holds no report at all.
    """
    data = read_json(path)
    if not isinstance(data, dict) or "model" not in (data.get("fingerprint") or {}):
        raise BadFile(f"{path} is not a probe report; run `freeret probe`")
    fields = {"seed": 0, "timings": {}, **data, **EMPTY}
    gaps: dict[PartName, str] = {}
    for part in PARTS:
        if data.get("format") != FORMAT:
            gaps[part] = f"of format {data.get('format')}, not {FORMAT}: probe again"
        elif part not in data:
            gaps[part] = "not measured"
        else:
            try:
                fields[part] = _part_of(data, part)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                gaps[part] = f"cannot be read ({wrong_field(error)}): probe again"
    known = ("fingerprint", "seed", "timings", *PARTS)
    return ProbeReport(**{name: fields[name] for name in known}), gaps


def _part_of(data: Mapping[str, Any], part: PartName) -> Any:
    """A part of the parsed JSON as the field of `ProbeReport`."""
    if part == "curves":
        return {kind: Curves.from_json(data[part][kind]) for kind in PROMPT_KINDS}
    value = _ADAPTERS[part].validate_python(data[part])
    return Results(value) if isinstance(value, list) else value


def decisive(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a backbone's fingerprint that decide what the probes measure."""
    media = fingerprint.get("media") or {}
    same = {key: fingerprint.get(key) for key in ("weights", "tokenizer", "processor")}
    bound = {"max_pixels": media["max_pixels"]} if "max_pixels" in media else {}
    changed = {key: fingerprint[key] for key in ("interventions",) if key in fingerprint}
    return {**same, "pictures": media.get("images"), **bound, **changed}
