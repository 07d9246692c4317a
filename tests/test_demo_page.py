"""The demo's page in a real browser: nothing missing, nothing overflowing, content only shown."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from freeret.demo.page import Gallery, Search, Table, write_page
from freeret.retriever import Hit
from probes import Item

EVIL = "<script>document.title = 'taken'</script> & <b>bold</b>"
LONG = "Donaudampfschifffahrtsgesellschaft" * 12
SIZES = {"phone": {"width": 360, "height": 640}, "desk": {"width": 1280, "height": 800}}


def hit(id: str, item: Item, score: float = 0.5) -> Hit:
    return Hit(id, score, score, None, item)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    red, blue = (Image.new("RGB", (400, 300), colour) for colour in ("red", "blue"))
    blue.save(folder / "curves.png")
    hits = [
        hit("p", Item(images=[red])),
        hit("t", Item(EVIL), 0.25),
        hit("l", Item(LONG)),
        hit("v", Item(videos=[[red, blue, red, blue, red]])),
        hit("m", Item("both", images=[Image.new("RGBA", (3, 900))])),
    ]
    searches = [
        Search(Item(EVIL), hits, frozenset(["p"])),
        Search(Item("what?", images=[blue]), hits[:1]),
    ]
    write_page(
        folder / "index.html",
        f"Demo {EVIL}",
        [f"because {EVIL}", LONG],
        [("The curves", folder / "curves.png")],
        [Table("Compared", ["method", LONG], [["a", EVIL]])],
        [Gallery("Mixed", searches)],
    )
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_whole(size: Any, scheme: Any, page_file: Path, browser: Browser) -> None:
    page = browser.new_page(viewport=size, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda r: said.append(r.url) if r.url.startswith("http") else None)
    page.goto(page_file.as_uri())
    assert said == []
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.locator("img").count() == 1 + 1 + 4 + 1 + 1 + 1
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    inside = """[...document.querySelectorAll('article *')].every(e => {
        const card = e.closest('article').getBoundingClientRect();
        const own = e.getBoundingClientRect();
        return own.right <= card.right + 1 && own.left >= card.left - 1;
    })"""
    assert page.evaluate(inside)
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    light = lambda rgb: sum(map(int, rgb.removeprefix("rgb(").rstrip(")").split(",")))  # noqa: E731
    assert (light(ink) > light(paper)) == (scheme == "dark")
    page.close()


def test_content_is_shown_and_never_run(page_file: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    assert page.title() == f"Demo {EVIL}"
    assert page.locator("article").first.inner_text().count(EVIL) == 2
    assert page.locator("body b, body script").count() == 0
    assert page.locator("li.right").count() == 1
    page.close()
