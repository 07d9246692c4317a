"""The page of a search and the page of a probe report, in a real browser: whole at any width, light
and dark, self-contained, and content is only shown."""

import io
import shutil
import webbrowser
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import probes
from freeret.cli import app
from freeret.pages.comparison import comparison_page
from freeret.pages.hits import hits_page
from freeret.pages.items import MAX_CHARACTERS, item_card
from freeret.pages.probe_folder import write_report
from freeret.pages.report import lead, report_page
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item, ProbeReport, compare
from tests.conftest import load_tiny
from tests.samples import film, picture, sound
from tests.stores import save_tiny

EVIL = "<script>document.title = 'taken'</script> & <b>bold</b>"
LONG = "Donaudampfschifffahrtsgesellschaft" * 12
REPORTS = Path(probes.__file__).parent / "data" / "reports"
WIDTHS = (1280, 390)
WHOLE = "document.documentElement.scrollWidth <= window.innerWidth"
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
WORDS_IN_HEADS = """[...document.querySelectorAll('th')].every(head => {
    const range = document.createRange();
    return head.textContent.split(/\\s+/).filter(Boolean).every(word => {
        const at = head.firstChild.textContent.indexOf(word);
        range.setStart(head.firstChild, at);
        range.setEnd(head.firstChild, at + word.length);
        return range.getClientRects().length === 1;
    });
})"""
OUTSIDE = """[...document.querySelectorAll('li, figure, p, dl')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.right > window.innerWidth || box.left < 0;
}).length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])


def opened(browser: Browser, file: Path, width: int = 1280, scheme: Any = "light") -> Page:
    """The page, which must say nothing on the console, ask for nothing and overflow nowhere."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(file.as_uri())
    assert [line for line in said if not line.startswith(("file:", "data:"))] == []
    assert page.evaluate(BROKEN) == 0
    assert page.evaluate(WHOLE)
    assert page.evaluate(OUTSIDE) == 0
    assert page.evaluate(WORDS_IN_HEADS)
    return page


def brightness(page: Page, name: str) -> int:
    colour = page.evaluate(f"getComputedStyle(document.body).{name}")
    return sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(",")))


# -- the page of a search -------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two searches over media of every kind; two files have gone since."""
    folder = tmp_path_factory.mktemp("hits")
    gone, damaged = folder / "gone.png", folder / f"damaged <b>{'x' * 60}.png"
    for file in (gone, damaged):
        picture(900, 600).save(file)
    retriever = FreeRet(load_tiny("qwen2.5-omni"), Recipe("control", "attn[-1]", "none", "mcq"))
    items = [
        Item(EVIL, id=EVIL, metadata={EVIL: EVIL, "year": 2001}),
        Item(LONG, id=LONG, metadata={LONG: LONG}),
        Item("a picture", images=[picture(900, 600)], id="picture"),
        Item(videos=[film(9)], id="clip"),
        Item(audios=[sound()], id="sound"),
        Item("text stays", images=[gone], id="gone"),
        Item(images=[damaged], id="damaged"),
        Item("of " * MAX_CHARACTERS, id="long"),
    ]
    retriever.index(items, folder / "store")
    gone.unlink()
    damaged.write_bytes(b"no picture")
    queries = [Item(EVIL), Item("like this", images=[picture()])]
    kept = [retriever.search_many(queries[:1], 8)[0], retriever.search_many(queries[1:], 3)[0]]
    hits = [kept[0], type(kept[1])(replace(h, stage2_score=0.25) for h in kept[1])]
    file = folder / "hits.html"
    file.write_text(hits_page(retriever, queries, hits, f"freeret search '{EVIL}'"), "utf-8")
    return file


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_search_is_whole(
    width: int, scheme: str, searched: Path, browser: Browser
) -> None:
    page = opened(browser, searched, width, scheme)
    assert (brightness(page, "color") > brightness(page, "backgroundColor")) == (scheme == "dark")
    strip = page.locator(".strip").first
    frames = [frame.bounding_box() for frame in strip.locator("img").all()]
    assert len(frames) == 4
    assert len({box["y"] for box in frames if box}) == 1  # all in one row
    assert all(box["width"] > 20 for box in frames if box)
    cards = [card.bounding_box() for card in page.locator(".results > li").all()]
    assert all(box["width"] > 300 for box in cards if box)
    edge = "getComputedStyle(document.querySelector('.medium img')).borderTopWidth"
    assert page.evaluate(edge) == "1px"
    page.close()


def test_a_search_is_shown_and_its_content_never_run(searched: Path, browser: Browser) -> None:
    page = opened(browser, searched)
    assert page.title() == "Search results"
    assert page.locator("body b b, body script").count() == 0
    first, second = page.locator("ol.results").all()
    assert first.locator("li").count() == 8
    ranks = first.locator("li .head b").all_inner_texts()
    assert ranks == [str(rank) for rank in range(1, 9)]
    assert second.locator(".tag").all_inner_texts() == ["reranked"] * 3
    assert "stage 2 p(match) 0.250" in second.inner_text()
    assert first.locator(".tag").count() == 0
    shown = first.inner_text()
    assert shown.count(EVIL) == 4  # text, id, key and value
    assert "clip, 4 of 9 frames" in shown
    assert "sound" in shown
    assert f"({3 * MAX_CHARACTERS:,} characters)" in shown
    about = page.locator("body").inner_text()
    assert f"freeret search '{EVIL}'" in about
    assert "Vectors are read at attn[-1] under the control prompt" in about
    page.close()


def test_media_that_cannot_be_read_are_named(searched: Path, browser: Browser) -> None:
    page = opened(browser, searched)
    gone = page.locator("ol.results").first.locator("li", has_text="text stays").inner_text()
    assert "picture gone.png: no longer readable" in gone
    assert str(searched.parent / "gone.png") not in searched.read_text("utf-8")
    assert page.locator("ol.results").first.locator(".missing").count() == 3  # and the sound
    page.close()


def test_a_page_carries_thumbnails_only(searched: Path) -> None:
    assert searched.stat().st_size < 150_000


def test_a_picture_keeps_its_shape() -> None:
    (medium,) = item_card(Item(images=[Image.new("RGB", (3000, 30))])).media
    assert medium.frames[0].startswith("data:image/webp;base64,")
    assert len(medium.frames[0]) < 2000


def test_several_pictures_are_one_film_strip() -> None:
    pictures = [Image.new("RGB", (300, 200), colour) for colour in ("red", "green", "blue")]
    (strip,) = item_card(Item("three", images=pictures)).media
    assert strip.strip
    assert len(strip.frames) == 3
    assert strip.caption == "film strip, 3 pictures"
    mixed = item_card(Item(images=pictures[:1], videos=[pictures])).media
    assert [medium.strip for medium in mixed] == [False, True]


def test_a_path_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    retriever = FreeRet(load_tiny("llama"), Recipe("control", "attn[-1]", "none", None))
    item = Item("a", images=[Path("caf\udce9.png")])
    page = hits_page(retriever, [item], [[]])
    assert "caf\\udce9.png" in page.encode().decode()
    assert "There are no hits." in page
    assert "<pre>" not in page, "there is no command to show"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    model = save_tiny(folder / "model")
    retriever = FreeRet(Backbone.load(model), Recipe("e5v", "attn[-1]", "none", "mcq"))
    retriever.index([f"{k} of the word" for k in range(4)], folder / "store")
    return folder / "store"


def test_search_writes_its_page(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", urls.append)
    file = tmp_path / "new" / "page.html"
    asking = ["search", str(store), "the word"]
    app([*asking, "--top-n", "2", "--html", str(file)], result_action="return_value")
    assert str(file) in capsys.readouterr().out.replace("\n", "")
    assert file.read_text("utf-8").count("<li>") == 2 + 1  # hits, and the reason for the recipe
    assert urls == []
    app([*asking, "--rerank", "1", "--open"], result_action="return_value")
    (url,) = urls
    written = Path(url.removeprefix("file://"))
    assert written.read_text("utf-8").count(">reranked<") == 1
    shutil.rmtree(written.parent)


# -- the page of a report -------------------------------------------------------------------


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report whose model and frames are called as no model would be."""
    report = ProbeReport.load(REPORTS / "qwen2.5-coder-0.5b.json")
    hostile = replace(
        report,
        fingerprint={**report.fingerprint, "model": EVIL},
        framing=[replace(report.framing[0], frame="<b>mcq</b>"), *report.framing[1:]],
        timings={EVIL: 1.0},
    )
    recipe = replace(Recipe.from_report(report), reasons=(EVIL, LONG))
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_page(hostile, recipe), "utf-8")
    return file


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_report_is_whole(
    width: int, scheme: str, reported: Path, browser: Browser
) -> None:
    page = opened(browser, reported, width, scheme)
    assert (brightness(page, "color") > brightness(page, "backgroundColor")) == (scheme == "dark")
    assert_charts_suit(page, scheme)
    assert page.locator("body b, body script").count() == 0
    page.close()


def assert_charts_suit(page: Page, scheme: str) -> None:
    """Charts are light on a light page and dark on a dark one: a corner, as it is shown."""
    charts = page.locator(".chart img").all()
    assert charts
    for chart in (charts[0], charts[-1]):
        with Image.open(io.BytesIO(chart.screenshot())) as shown:
            corner = shown.convert("L").getpixel((2, 2))
        assert isinstance(corner, int)
        assert (corner < 64) == (scheme == "dark")
        assert (corner > 192) == (scheme == "light")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a comparison of a shipped report, one whose model is called as no model would be,
    and one without any part."""
    whole = ProbeReport.load(REPORTS / "qwen2.5-coder-0.5b.json")
    hostile = replace(whole, fingerprint={**whole.fingerprint, "model": EVIL})
    empty = replace(
        whole, fingerprint={"model": LONG}, framing=[], diagnostic=[], curves={}, hybrid=[],
        reranking=[], synonyms=[], injection=[], timings={},
    )  # fmt: skip
    file = tmp_path_factory.mktemp("comparison") / "comparison.html"
    file.write_text(comparison_page(compare(["gemma3-270m", hostile, empty])), "utf-8")
    return file


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_comparison_is_whole(
    width: int, scheme: str, compared: Path, browser: Browser
) -> None:
    page = opened(browser, compared, width, scheme)
    assert_charts_suit(page, scheme)
    assert page.locator("body b, body script").count() == 0
    assert page.locator("section").count() == 5
    assert "not measured" in page.locator("table").inner_text()
    assert all(image.get_attribute("alt") for image in page.locator("img").all())
    page.close()


def test_every_figure_of_a_report_says_how_to_read_it(reported: Path, browser: Browser) -> None:
    page = opened(browser, reported)
    sections = page.locator("section").all()
    assert len(sections) == 10
    for section in sections:
        assert section.locator("h2 + p").count() == 1
        assert section.locator("img, table").count() >= 1
        assert all(image.get_attribute("alt") for image in section.locator("img").all())
    assert page.locator("details[open]").count() == 0
    page.locator("summary", has_text="Fingerprint").click()
    assert '"architecture": "Qwen2ForCausalLM"' in page.locator("pre").inner_text()
    page.close()


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("smollm2-135m", ["in the last MLP under E5-V's prompt", "in the final norm on"]),
        ("gemma3-270m", ["in the final norm under E5-V's prompt, under the paper's"]),
    ],
)
def test_the_first_sentences_say_where_meaning_becomes_words(
    name: str, sentences: list[str]
) -> None:
    report = ProbeReport.load(REPORTS / f"{name}.json")
    recipe = Recipe.from_report(report)
    said = lead(report, recipe)
    assert all(sentence in said for sentence in [name, *sentences, f"reads it at {recipe.site}:"])
    assert ("not reranked" in said) == (recipe.frame is None)


def test_a_report_is_written_with_its_page(tmp_path: Path) -> None:
    report = ProbeReport.load(REPORTS / "smollm2-135m.json")
    write_report(report, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Probe report of smollm2-135m" in page
    assert page.count("data:image/svg+xml") == 3 * 3 + 3 + 1 + 1
    assert len(page) < 2_000_000
