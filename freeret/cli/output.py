"""Output of the command line: tables, lines and messages.

Texts, ids and file names come from anywhere and could hold sequences that steer a terminal. All
output passes through the functions of this file, which show control characters as escapes.
"""

import json
import logging
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from freeret.evaluate.results.trec import check_trec_ids, trec_lines, trec_word

if TYPE_CHECKING:
    from freeret.hits import Hit
    from freeret.store.filters import Selection
    from freeret.store.table import Store
    from probes import Item, LensTable

UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 with ESC, DEL, and C1 with CSI and OSC
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides and isolates
    "\ud800-\udfff]"  # lone surrogates, which cannot be encoded
)
BLOCK = "\n\t"
"""Characters that stay as they are in a text of several lines."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
log = logging.getLogger("freeret")


def printable(text: str, keep: str = "") -> str:
    """Escape every character that could steer a terminal, as in `\\x1b`.

    Args:
        text: Any text.
        keep: Characters that stay as they are, such as `BLOCK`.
    """
    return UNSAFE.sub(lambda m: m[0] if m[0] in keep else ascii(m[0])[1:-1], text)


def say(text: str) -> None:
    """Print a text of one or more lines on standard output."""
    console.print(printable(text, BLOCK), markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print an error on standard error, after the name of the command."""
    note(f"freeret: {text}")


def this_command() -> str:
    """How to call this program from the working directory: by its name where the PATH leads to it,
    or else by the path of its script, or of Python."""
    script = Path(sys.argv[0])
    if script.name != "freeret":
        return f"{_from_here(Path(sys.executable))} -m freeret"
    on_path = shutil.which("freeret")
    if on_path and script.exists() and script.samefile(on_path):
        return "freeret"
    return _from_here(script)


def _from_here(path: Path) -> str:
    """A path for the shell, relative if it is below the working directory."""
    path = path.absolute()
    return shlex.quote(
        str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    )


@contextmanager
def resumable(kept: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C within say what was kept, and that the same command resumes.

    Args:
        kept: Gives a clause such as `256 items are stored`, once the work has been interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        message = f"interrupted; {kept()}; run the same command again to resume"
        raise KeyboardInterrupt(message) from None


def note(text: str) -> None:
    """Print a remark on standard error, beside the result of a command."""
    Console(stderr=True, highlight=False).print(
        printable(text, BLOCK), markup=False, soft_wrap=True
    )


def note_why_no_items(store: "Store", selection: "Selection") -> None:
    """Remark why nothing in a store passes a selection."""
    from freeret.store.hints import why_no_items

    reason = why_no_items(store, selection)
    if reason is not None:
        note(reason)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output, every cell on one line of text that may wrap. Without any
    column names the table has no head."""
    table = Table(title=Text(printable(title)), title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(Text(printable(column)))
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # content is not markup
    console.print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines for other programs on standard output, as they are made."""
    sys.stdout.writelines(printable(line) + "\n" for line in lines)


class MessageFormatter(logging.Formatter):
    """Log records as the command line shows them: the level of warnings and errors, the message."""

    def format(self, record: logging.LogRecord) -> str:
        message = printable(super().format(record), BLOCK)
        if record.levelno <= logging.INFO:
            return message
        return f"{record.levelname.lower()}: {message}"


@contextmanager
def messages() -> Iterator[None]:
    """Show the log of this project and Python's warnings on standard error, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(MessageFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for announcing in ("freeret.reports", "freeret.evaluate.ablation", "probes.embedded"):
        logging.getLogger(announcing).setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show 日 is no reason to stop
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: log.warning("%s", message)
        yield


def as_json(hit: "Hit", query: "Item | None" = None) -> str:
    """One hit as a line of JSON.

    Args:
        hit: The hit. Media by path are given by their path.
        query: The query, whose id and text come first; None to leave them out.
    """
    about_query = {} if query is None else {"query": query.id, "query_text": query.text}
    return json_line(
        {
            **about_query,
            "id": hit.id,
            "score": hit.score,
            "stage1_score": hit.stage1_score,
            "stage2_score": hit.stage2_score,
            "legs": hit.legs and asdict(hit.legs),
            "words": hit.words,
            "text": hit.item.text,
            "media": [
                {"kind": p.kind, "path": str(p.value) if isinstance(p.value, Path) else None}
                for p in hit.item.media
            ],
            "metadata": dict(hit.item.metadata),
        }
    )


def json_line(value: Any) -> str:
    """A JSON value on one line."""
    line = json.dumps(value, ensure_ascii=False)
    # JSON escapes the characters below a space itself; the others only stand inside strings.
    return UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", line)


def as_trec(run: "Mapping[str, Sequence[Hit]]", tag: str) -> list[str]:
    """The hits of each query, by its id, as the lines of a TREC run. Says when an id holds white
    space, which becomes `_`. Raises BadSetting when two ids become the same word."""
    documents = [hit.id for hits in run.values() for hit in hits]
    check_trec_ids(run)
    check_trec_ids(documents)
    ids = [*run, *documents]
    changed = next((id for id in ids if trec_word(id) != id), None)
    if changed is not None:
        note(f"white space in ids is `_` in the TREC run, such as in {changed!r}")
    return [
        line
        for query, hits in run.items()
        for line in trec_lines(query, ((hit.id, hit.score) for hit in hits), tag)
    ]


def summary(item: "Item", length: int) -> str:
    """An item on one line: its texts, then its media by their file names."""
    media = [
        f"[{part.kind} {part.value.name}]" if isinstance(part.value, Path) else str(part)
        for part in item.media
    ]
    return " ".join(" ".join([item.text, *media]).split())[:length]


def store_facts(store: "Store") -> list[list[str]]:
    """The rows of `freeret info`."""
    from freeret.store.hints import key_counts

    backbone, recipe = store.identity["backbone"], store.recipe()
    geometry = store.geometry()
    keys = sorted(key_counts(store).items())
    return [
        ["items", str(len(store))],
        *([f"  {signature}", str(n)] for signature, n in store.signatures().items()),
        *([["metadata", "items with the key"]] if keys else []),
        *([f"  {key}", str(count)] for key, count in keys),
        ["dimension", str(store.dimension)],
        ["model", f"{backbone['model']} ({backbone['architecture']}, {backbone['dtype']})"],
        ["weights", backbone["weights"]],
        ["prompt, site", f"{recipe['prompt']}, {recipe['site']}"],
        ["geometry", f"{recipe['geometry']} ({'fitted' if geometry else 'to be fitted'})"],
        ["reranking", recipe["frame"] or "none"],
        ["made with", ""],
        *([f"  {name}", version] for name, version in backbone["versions"].items()),
    ]


def lens_facts(table: "LensTable", shown: Sequence[int]) -> tuple[str, list[str], list[list[str]]]:
    """The title, columns and rows of a lens table: the top words of one position with all that is
    known of their state, or the top word of each of several positions."""
    by_site: dict[str, list[dict[str, Any]]] = {}
    for cell in table.cells():
        if cell["position"] in shown:
            by_site.setdefault(cell["site"], []).append(cell)
    tokens = [cell["token"] for cell in next(iter(by_site.values()))]
    if len(shown) > 1:
        rows = [[site, *(_words(cell, 1) for cell in cells)] for site, cells in by_site.items()]
        title = f"{table.backbone}, tokens {shown[0]}–{shown[-1]} of {table.length}"
        return title, ["site", *tokens], rows
    title = f"{table.backbone}, after token {shown[0]} of {table.length}: {tokens[0]}"
    rows = [
        [
            site,
            _words(cell, 4),
            f"{cell['entropy']:.2f}",
            "" if cell["alpha"] is None else f"{cell['alpha']:.2f}",
            f"{cell['beta']:.2f}",
        ]
        for site, [cell] in by_site.items()
    ]
    return title, ["site", "words", "entropy", "α", "β"], rows


def _words(cell: dict[str, Any], count: int) -> str:
    return "  ".join(f"{word} {probability:.2f}" for word, probability in cell["top"][:count])
