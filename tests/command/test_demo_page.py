"""The demo's page in a real browser: nothing missing, nothing overflowing, content only shown."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from freeret.demo.page import Page, Table
from freeret.demo.searches import SHOWN, Search, Searches
from freeret.hits import Hit
from probes import Item

EVIL = "<script>document.title = 'taken'</script> & <b>bold</b>"
LONG = "Donaudampfschifffahrtsgesellschaft" * 12
SIZES: dict[str, ViewportSize] = {
    "phone": {"width": 390, "height": 844},
    "desk": {"width": 1280, "height": 800},
}
RED, BLUE = (Image.new("RGB", (400, 300), colour) for colour in ("red", "blue"))
PICTURE = Item(images=[RED], id="p")


def hit(id: str, item: Item, score: float = 0.5) -> Hit:
    return Hit(id, score, score, None, item)


def a_page(folder: Path, **changes: Any) -> Page:
    BLUE.save(folder / "curve.png")
    hits = [
        hit("p", PICTURE),
        hit("t", Item(EVIL), 0.25),
        hit("l", Item(LONG)),
        hit("v", Item(videos=[[RED, BLUE, RED, BLUE, RED]])),
        hit("c", Item(images=[RED, BLUE, RED])),
    ]
    missed = [*(hit(f"n{i}", Item(f"number {i}")) for i in range(SHOWN + 1)), hit("p", PICTURE)]
    content: dict[str, Any] = {
        "model": f"model {EVIL}",
        "recipe": f"It reads {EVIL}.",
        "reasons": [f"because {EVIL}", LONG],
        "to_come": [],
        "command": "freeret",
        "examples": [Searches("What?", [Search(Item("what?", images=[BLUE]), PICTURE, hits[:1])])],
        "curve": folder / "curve.png",
        "turn": "The last part turns it.",
        "tables": [
            Table("Compared", "Shares.", ["method", "right passage first"], [["a", EVIL]]),
            Table("Long", "A word.", ["search", LONG], [[LONG, "0.817 [0.717, 0.917]"]]),
        ],
        "galleries": [
            Searches("Mixed", [Search(Item(EVIL), PICTURE, hits)]),
            Searches("Missed", [Search(Item("where?"), PICTURE, missed)]),
        ],
    }
    return Page(**content | changes)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    a_page(folder).write(folder / "index.html")
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
    assert page.locator("img").count() == 2 + 1 + 1 + 4 + 3 + 1  # example, curve, galleries
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    inside = """[...document.querySelectorAll('article *')].every(e => {
        const card = e.closest('article').getBoundingClientRect();
        const box = e.getBoundingClientRect();
        return box.right <= card.right + 1 && box.left >= card.left - 1;
    })"""
    assert page.evaluate(inside)
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    light = lambda rgb: sum(map(int, rgb.removeprefix("rgb(").rstrip(")").split(",")))  # noqa: E731
    assert (light(ink) > light(paper)) == (scheme == "dark")
    page.close()


def test_a_search_stands_on_the_first_screen(page_file: Path, browser: Browser) -> None:
    page = browser.new_page(viewport=SIZES["phone"])
    page.goto(page_file.as_uri())
    right = page.locator("li.right").first.bounding_box()
    assert right is not None
    assert right["y"] < SIZES["phone"]["height"]
    assert not page.locator("details li").first.is_visible()  # the measurements, until asked for
    page.close()


def test_heads_of_tables_break_between_words_only(page_file: Path, browser: Browser) -> None:
    page = browser.new_page(viewport=SIZES["phone"])
    page.goto(page_file.as_uri())
    whole = """[...document.querySelectorAll('th')].every(th => {
        const wide = document.createElement('span');
        wide.style.whiteSpace = 'nowrap';
        return th.textContent.split(' ').every(word => {
            wide.textContent = word;
            th.append(wide);
            const fits = wide.getBoundingClientRect().width <= th.getBoundingClientRect().width;
            wide.remove();
            return fits;
        });
    })"""
    assert page.evaluate(whole)
    page.close()


def test_a_right_answer_that_is_missed_is_shown_with_its_rank(
    page_file: Path, browser: Browser
) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    (missed,) = page.locator("li.missed").all()
    assert "right answer: rank 7" in missed.inner_text()
    assert missed.locator("img").count() == 1
    cards = page.locator("article", has_text="where?").locator("li")
    assert cards.count() == SHOWN + 1
    assert page.locator("li.right").count() == 2  # the example, and the search that worked
    page.close()


def test_several_pictures_are_one_strip(page_file: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    strips = page.locator(".strip")
    assert [strip.locator("img").count() for strip in strips.all()] == [4, 3]
    assert strips.nth(1).inner_text() == "film strip, 3 pictures"
    heights = [image.bounding_box() for image in strips.nth(1).locator("img").all()]
    assert len({box["y"] for box in heights if box}) == 1  # in a row
    page.close()


def test_a_page_says_what_it_does_not_hold_yet(tmp_path: Path, browser: Browser) -> None:
    path = tmp_path / "index.html"
    a_page(tmp_path, to_come=["a step", "another"], curve=None, tables=[], galleries=[]).write(path)
    page = browser.new_page()
    page.goto(path.as_uri())
    assert "Still to come: a step; another" in page.inner_text(".pending")
    assert page.locator("table, .chart").count() == 0
    a_page(tmp_path).write(path)
    page.reload()
    assert page.locator(".pending").count() == 0
    page.close()


def test_content_is_shown_and_never_run(page_file: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    assert page.title() == f"FreeRet with model {EVIL}"
    assert page.locator("article", has_text="bold").inner_text().count(EVIL) == 2
    assert page.locator("body b, body script").count() == 0
    page.close()
