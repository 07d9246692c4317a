"""Nothing that is stored, typed or named like a file reaches the terminal as a control sequence."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freeret.cli.output import BLOCK, UNSAFE, MessageFormatter, as_json, as_trec, printable
from freeret.hits import Hit
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item
from tests.commands import run, spawn
from tests.models import tokenizer  # noqa: F401  (sets up tiny models before freeret is imported)
from tests.stores import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
EVIL = {
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "clear screen": "\x1b[2J\x1b[H",
    "C1 CSI": "\x9b2J",
    "C1 OSC": "\x9d0;title\x9c",
    "link": "\x1b]8;;http://x.example\x1b\\here\x1b]8;;\x1b\\",
    "override": "\u202egpj.exe\u202c",
    "isolate": "\u2066a\u2069",
    "backspace": "safe\x08\x08\x08\x08evil",
    "return": "right\rwrong",
    "delete": "\x7f",
    "separator": "a\u2028b",
    "surrogate": "\udcff",
}
ALL = "".join(EVIL.values())


def is_clean(output: str, keep: str = "\n") -> bool:
    return not any(found not in keep for found in UNSAFE.findall(output))


@pytest.mark.parametrize("name", EVIL)
def test_a_control_character_is_shown(name: str) -> None:
    shown = printable(f"a {EVIL[name]} b")
    assert shown.isprintable()
    assert shown.startswith("a ")
    assert shown.endswith(" b")
    assert "\\" in shown


@pytest.mark.parametrize(
    "text",
    ["plain", "Grüße, 日本語, עברית, नमस्ते", "👩\u200d👧 e\u0301", "a\\nb", "[red]x[/red]"],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_lines_and_tabs_stay_where_they_are_wanted() -> None:
    assert printable("a\n\tb\r") == "a\\n\\tb\\r"
    assert printable("a\n\tb\r", BLOCK) == "a\n\tb\\r"


def test_lines_for_programs_are_safe_and_lose_nothing() -> None:
    text = ALL.replace(EVIL["surrogate"], "")  # items hold none
    hit = Hit(ALL, 0.5, 0.5, None, Item(text, metadata={text: text}))
    line = as_json(hit)
    assert is_clean(line, "")
    read = json.loads(line)
    assert (read["id"], read["text"], read["metadata"]) == (ALL, text, {text: text})
    [row] = map(printable, as_trec({"q": [hit]}, "tag"))
    assert is_clean(row, "")
    assert len(row.split()) == 6


def test_an_item_is_summarised_on_one_line() -> None:
    assert str(Item("first\n\nsecond\r\n\tthird\n")) == "first second third"


def test_a_message_is_safe_and_says_its_level() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "skipped: %s", (ALL,), None)
    shown = MessageFormatter().format(record)
    assert shown.startswith("warning: skipped: ")
    assert is_clean(shown)
    record.levelno = logging.INFO
    assert MessageFormatter().format(record).startswith("skipped: ")


def test_what_the_log_says_is_shown_as_one_line() -> None:
    """Information without a level, and Python's warnings without the place in the code."""
    code = """if True:
        import logging, warnings
        from freeret.cli.output import messages
        with messages():
            logging.getLogger("freeret.reports").info("probing now")
            logging.getLogger("freeret.store.indexing").info("a detail")
            logging.getLogger("freeret.store.indexing").warning("skipped: %s", "\\x1b[2J")
            warnings.warn("not reranked", stacklevel=1)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = ["probing now", "warning: skipped: \\x1b[2J", "warning: not reranked"]
    assert done.stderr.splitlines() == expected


# ---------------------------------------------------------------------------------- whole commands


@pytest.fixture(scope="module")
def evil_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of evil texts, ids and metadata, made with an evil model."""
    folder = tmp_path_factory.mktemp("evil")
    model = save_tiny(folder / f"model{EVIL['clear screen']}")
    retriever = FreeRet(Backbone.load(model), Recipe("e5v", "attn[-1]", "none", None))
    items = [Item(f"{name}: {text}", id=f"{name}{text}", metadata={text: text})
             for name, text in EVIL.items() if name != "surrogate"]  # fmt: skip
    retriever.index(items, folder / "store")
    return folder / "store"


@pytest.mark.parametrize(
    "options",
    [
        ("search", "{}", ALL[:-1]),
        ("search", "{}", "q", "--json"),
        ("search", "{}", "q", "--trec", "tag\x1b[2J"),
        ("answer", "{}", "q\x1b[2J", "--top-n", 9),
        ("info", "{}"),
        ("info", "{}\x9b2J"),
        ("search", "{}", "q", "--model", "nosuch\x1b[2J/model"),
        ("search", "{}", "q", "--image", "no\x1b]52;c;ZXZpbA==\x07.png"),
        ("index", "a\x1b[2J.txt", "--store", "{}"),
        ("index", "a\x1b[2J.txt", "--stor\x1b[2J", "{}"),
        ("eval", "no\x1b[2J:suite"),
        ("check", "/no\x9b2J"),
    ],
)
def test_no_command_lets_a_terminal_be_steered(
    options: tuple, evil_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*(str(option).replace("{}", str(evil_store)) for option in options))
    captured = capsys.readouterr()
    assert captured.out or captured.err
    assert is_clean(captured.out)
    # Bars move the cursor themselves.
    assert is_clean(re.sub(r"\r|\x1b\[A", "", captured.err))


def test_warnings_and_names_of_files_are_safe(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("clipboard", "clear screen", "C1 CSI", "override", "surrogate"):
        (tmp_path / "in" / f"{name}{EVIL[name].replace('/', '')}.txt").write_text(" ")
    (tmp_path / "in" / "good.txt").write_text("good")
    model = save_tiny(tmp_path / "model")
    recipe = Recipe("e5v", "attn[-1]", "none", None).save(tmp_path / "recipe.json")
    index: tuple[Any, ...] = (
        "index", tmp_path / "in", "--store", tmp_path / "s", "--model", model, "--recipe", recipe,
    )  # fmt: skip
    done = spawn(*index, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "1 added" in done.stdout
    assert "5 skipped" in done.stdout
    assert done.stderr.count("warning: skipped: ") == 5
    assert is_clean(re.sub(r"\r|\x1b\[A", "", done.stderr))
    done = spawn(*index)
    assert done.returncode == 1
    assert is_clean(re.sub(r"\r|\x1b\[A", "", done.stderr))
