"""The commands that help to plan a store: `freeret models` and `freeret estimate`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from freeret.cli.options import (
    AS_USUAL,
    USUAL_COLUMNS,
    ColumnNames,
    Count,
    Depth,
    Model,
    Settings,
    skip_bad_hint,
)
from freeret.cli.output import json_line, print_lines, print_table, printable, say
from probes.embedded import DEFAULT
from probes.errors import BadSetting

if TYPE_CHECKING:
    from freeret.scale.estimate import Estimate


def models(*, json: bool = False) -> None:
    """List the embedded backbones, which need no model hub: size, licence, modalities.

    Args:
        json: Print one JSON object per backbone (JSON Lines).
    """
    from probes.data import REPORTS
    from probes.embedded import ALIASES, place_of

    backbones = [
        {
            "alias": alias,
            "parameters": source.parameters,
            "dimension": source.dimension,
            "reads": list(source.reads),
            "licence": source.licence,
            "download_and_conversion_mb": source.needs_mb,
            "report": (REPORTS / f"{alias}.json").is_file(),
            "cached": place_of(alias).is_dir(),
        }
        for alias, source in ALIASES.items()
    ]
    if json:
        print_lines(map(json_line, backbones))
        return
    print_table(
        "Embedded backbones; --model also takes a folder, or a hub id such as "
        "Qwen/Qwen2.5-VL-3B-Instruct",
        ["--model", "parameters", "dimension", "reads", "licence", "probe report", "on this disk"],
        [
            [
                str(row["alias"]),
                f"{row['parameters'] / 1e6:.0f} M",
                str(row["dimension"]),
                ", ".join(row["reads"]),
                str(row["licence"]),
                "shipped" if row["report"] else "none",
                "yes" if row["cached"] else f"no, needs {row['download_and_conversion_mb']} MB",
            ]
            for row in backbones
        ],
    )


def estimate(
    *paths: str,
    model: Model = DEFAULT,
    columns: ColumnNames = USUAL_COLUMNS,
    skip_bad: bool = False,
    rerank: Depth = 0,
    queries: Count = 0,
    price: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    seed: int = 0,
    json: bool = False,
    loading: Settings = AS_USUAL,
) -> None:
    """Estimate hours, disk and memory of a corpus from a sample, before anything is embedded.

    The model is loaded, and its throughput on this device is measured for a few seconds.

    Args:
        paths: Files and folders, as for `freeret index`.
        skip_bad: Leave out items that cannot be read and count them, as `freeret index` does.
        queries: Number of queries that will be reranked; needs --rerank.
        price: Price of one hour of this device, in any currency.
        seed: Seed of the sample.
        json: Print everything as one JSON object.
    """
    if not paths:
        raise BadSetting("name at least one file or folder")
    if bool(rerank) != bool(queries):
        raise BadSetting(
            "give both --rerank (candidates per query) and --queries (number of queries), or "
            "neither"
        )
    listing = columns.listing(paths, skip_bad=skip_bad)
    from freeret.scale.estimate import estimate as measure
    from probes import Backbone

    backbone = Backbone.load(model, loading)
    with skip_bad_hint(skip_bad):
        needs = measure(backbone, listing, rerank=rerank, queries=queries, price=price, seed=seed)
    if json:
        print_lines([json_line(needs.to_json())])
    else:
        _print_estimate(needs, rerank * queries)


def _print_estimate(needs: "Estimate", pairs: int) -> None:
    from freeret.sources.files import passed_over_in_words

    rows = [
        [
            part.signature,
            f"{part.items:,}",
            f"{part.tokens:.0f}",
            f"{part.items_per_second:.3g}",
            _duration(part.hours),
        ]
        for part in needs.parts
    ]
    if needs.rerank_hours is not None and needs.pairs_per_second is not None:
        time = _duration(needs.rerank_hours)
        rows.append(["reranked pairs", f"{pairs:,}", "", f"{needs.pairs_per_second:.3g}", time])
    print_table(
        f"{needs.model} on one {needs.device}",
        ["content", "items", "tokens per item", "items per second", "time"],
        rows,
    )
    say(
        f"disk {_size(needs.disk)}; memory {_size(needs.memory)} for all vectors "
        f"(a search reads from the disk what does not fit), {_size(needs.weights)} for the weights"
    )
    say(f"a store takes {needs.written_per_second:,.0f} items per second from all devices together")
    if needs.price is not None:
        say(f"estimated price: {needs.price:,.2f}")
    if needs.unreadable:
        say(f"{needs.unreadable} sampled items cannot be read and are not in these figures")
    if needs.skipped:
        first = next(iter(needs.skipped.values()))
        more = f" (and {len(needs.skipped) - 1} more)" if len(needs.skipped) > 1 else ""
        say(printable(f"{len(needs.skipped)} left out: {first}{more}"))
    if needs.passed_over:
        say(printable(passed_over_in_words(needs.passed_over)))


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
