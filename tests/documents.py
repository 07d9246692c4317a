"""Reading the documentation: the code blocks of a page, and the commands in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- needs: (?P<needs>.+?) -->\n)?"
    r"```(?P<language>\w*)\n(?P<body>.*?)^```$"
    r"(?:\n+```text\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        line: Line of the page on which it starts.
        language: `python` or `console`.
        body: The code.
        needs: The reason why it cannot be run here, such as a GPU; empty if it can.
        shown: The output that the page shows below it.
    """

    line: int
    language: str
    body: str
    needs: str
    shown: str


@dataclass(frozen=True)
class Command:
    """A command of a console block and the lines that are shown as its output."""

    line: str
    shown: list[str]


def blocks(page: Path) -> list[Block]:
    """The Python and console blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            match["body"],
            match["needs"] or "",
            match["shown"] or "",
        )
        for match in FENCE.finditer(text)
        if match["language"] in ("python", "console")
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a console block: lines after `$ `, joined where one ends in a backslash."""
    listed: list[Command] = []
    for line in block.body.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            listed.append(Command(line.removeprefix("$ "), []))
        elif line.strip():
            listed[-1].shown.append(line)
    return listed
