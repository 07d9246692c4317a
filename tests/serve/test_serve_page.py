"""The server's page in a real browser, against the real server over a tiny random model."""

import base64
import io
import shutil
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.serve.app import create_app
from freeret.serve.server import listen
from probes import Item

EVIL = "<img src=x onerror=\"document.title = 'taken'\"><script>document.title = 'taken'</script>"
LONG = "Donaudampfschifffahrtsgesellschaft" * 12
RED, BLUE = (Image.new("RGB", (60, 40), colour) for colour in ("red", "blue"))
ITEMS = [
    Item("bread goes stale", id="bread", metadata={"year": 1999, "topic": "food"}),
    Item(EVIL, id=f"evil/{EVIL}", metadata={EVIL: EVIL}),
    Item(LONG, id="long"),
    Item(images=[RED], id="red"),
    Item("two pictures", images=[BLUE, RED], id="blue"),
    Item(videos=[[RED, BLUE, RED, BLUE]], id="clip"),
]
FRAME = "mcq"
DROP = """([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, {type}));
    const options = {
        dataTransfer: carried, clipboardData: carried, bubbles: true, cancelable: true,
    };
    const event = kind => new DragEvent(kind, options);
    document.body.dispatchEvent(event('dragover'));
    document.body.dispatchEvent(event('drop'));
}"""


def serve(retriever: FreeRet, token: str | None = None) -> Iterator[str]:
    listener = listen("127.0.0.1", 0)
    app = create_app(retriever, token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> FreeRet:
    from tests.conftest import load_tiny

    recipe = Recipe("prompteol", frame=FRAME, reasons=(f"because {EVIL}", "and so on"))
    made = FreeRet(load_tiny("qwen2-vl"), recipe)
    made.index(ITEMS, store=tmp_path_factory.mktemp("served") / "store")
    return made


@pytest.fixture(scope="module")
def url(retriever: FreeRet) -> Iterator[str]:
    yield from serve(retriever)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, open; nothing may be logged, thrown or asked of anybody else."""
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    outside = lambda r: not r.url.startswith((url, "data:", "blob:"))  # noqa: E731
    opened.on("request", lambda r: said.append(r.url) if outside(r) else None)
    opened.goto(url)
    expect(opened.locator("#about")).to_contain_text("6 items")
    yield opened
    assert said == []
    assert opened.title() == "FreeRet search"
    opened.close()


def ids(page: Page) -> list[str]:
    return [head.inner_text() for head in page.locator("#hits .head span:nth-child(3)").all()]


def decode(page: Page) -> None:
    """Wait for every picture; one that is broken raises."""
    for image in page.locator("#hits img").all():
        image.evaluate("image => image.decode()")


def test_a_query_that_is_typed_finds_hits(page: Page) -> None:
    page.keyboard.type("bread goes stale")  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("6 hits")
    assert ids(page)[0] == "bread"
    assert set(ids(page)) == {item.id for item in ITEMS}
    assert page.locator("#hits li").first.locator(".facts").inner_text() == "topicfood\nyear1999"


def test_content_is_shown_and_never_run(page: Page) -> None:
    page.get_by_role("searchbox").fill("x")
    page.get_by_role("button", name="Search", exact=True).click()
    evil = page.locator("#hits li", has_text="onerror").first
    expect(evil.locator(".text")).to_have_text(EVIL)
    expect(evil.locator(".head")).to_contain_text(f"evil/{EVIL}")
    assert evil.locator("img, script").count() == 0
    page.get_by_text("How this store is searched").click()
    expect(page.locator("#reasons li").first).to_have_text(f"because {EVIL}")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("way", ["drop", "choose", "paste"])
def test_a_picture_is_searched_with(way: str, page: Page) -> None:
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    if way == "choose":
        page.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
        )
    else:
        data = ["a.png", "image/png", base64.b64encode(buffer.getvalue()).decode()]
        pasted = DROP.replace("new DragEvent(kind", "new ClipboardEvent('paste'")
        page.evaluate(DROP if way == "drop" else pasted, data)
    expect(page.locator("#status")).to_contain_text("hits")
    assert ids(page)[0] == "red"
    decode(page)
    captions = page.locator("#hits .strip figcaption").all_inner_texts()
    assert sorted(captions) == ["clip, 4 frames", "film strip, 2 pictures"]
    assert page.locator("#hits .strip img").count() == 4 + 2
    page.get_by_role("button", name="Remove the picture").click()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#status")).to_have_text("Type what you look for, or add a picture.")


def test_large_pictures_are_made_smaller_first(page: Page) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 1000), "red").save(buffer, "PNG")
    with page.expect_request("**/search") as asked:
        page.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
        )
    sent = (asked.value.post_data_json or {})["image"].removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(sent))).size == (1024, 256)
    expect(page.locator("#status")).to_contain_text("hits")


def test_what_is_no_picture_is_refused(page: Page) -> None:
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(page.locator("#status.error")).to_contain_text("not a picture")


def test_more_like_a_hit(page: Page) -> None:
    page.get_by_role("searchbox").fill("bread goes stale")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="More like hit 1").click()
    expect(page.locator("#status")).to_contain_text("5 hits like bread")
    assert "bread" not in ids(page)
    evil = page.locator("#hits li", has_text="onerror")
    evil.get_by_role("button").click()  # an id of slashes and quotes
    expect(page.locator("#status")).to_contain_text("like evil/")


def test_filters_choose_kinds_and_metadata(page: Page) -> None:
    page.get_by_role("searchbox").fill("x")
    page.get_by_text("Filters").click()
    page.get_by_label("video (1)").check()
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#status")).to_contain_text("1 hit ")
    assert ids(page) == ["clip"]
    page.get_by_label("video (1)").uncheck()
    page.get_by_label("Metadata").fill("year=1999, topic=food")
    page.keyboard.press("Enter")
    expect(page.locator("#hits li")).to_have_count(1)
    assert ids(page) == ["bread"]
    page.get_by_label("Metadata").fill("year=2000")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Nothing found")
    page.get_by_label("Metadata").fill("year")
    page.keyboard.press("Enter")
    expect(page.locator("#status.error")).to_contain_text("name=value")


def test_the_model_judges_where_it_is_asked_to(page: Page) -> None:
    page.get_by_role("searchbox").fill("bread")
    page.get_by_text("Filters").click()
    page.get_by_role("spinbutton", name="Hits").fill("2")
    page.get_by_label("Rerank").check()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#hits .tag")).to_have_count(2)
    expect(page.locator("#hits .tag").first).to_contain_text("reranked: p(match) = 0.")


def test_the_address_holds_the_search_for_reload_and_back(page: Page) -> None:
    text, status = page.get_by_role("searchbox"), page.locator("#status")
    text.fill("bread & water")
    page.get_by_text("Filters").click()
    page.get_by_role("spinbutton", name="Hits").fill("2")
    page.keyboard.press("Enter")
    expect(status).to_contain_text("2 nearest of 6 in")
    first = ids(page)
    assert page.url.endswith("/?q=bread+%26+water&n=2")
    page.get_by_label("video (1)").check()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(status).to_contain_text("1 hit in")
    page.get_by_role("button", name="More like hit 1").click()
    expect(status).to_contain_text("Nothing found")  # the only clip is not like itself
    page.reload()
    expect(status).to_contain_text("Nothing found")
    page.go_back()
    expect(status).to_contain_text("1 hit in")
    page.go_back()
    expect(status).to_contain_text("2 nearest of 6 in")
    expect(text).to_have_value("bread & water")
    expect(page.get_by_label("video (1)")).not_to_be_checked()
    assert ids(page) == first
    page.go_back()
    expect(page.locator("#hits li")).to_have_count(0)
    expect(text).to_have_value("")
    page.go_forward()
    expect(status).to_contain_text("2 nearest of 6 in")


def test_a_picture_that_was_searched_with_survives_a_reload(page: Page) -> None:
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    )
    expect(page.locator("#status")).to_contain_text("6 hits")
    page.reload()
    expect(page.locator("#status")).to_contain_text("6 hits")
    assert ids(page)[0] == "red"
    expect(page.locator("#preview")).to_be_visible()


def test_an_answer_is_streamed_with_its_sources(page: Page) -> None:
    page.get_by_role("searchbox").fill("why?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#status")).to_contain_text("Answered in")
    assert page.locator("#said").inner_text()
    assert page.locator("#hits li").count() == 5
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#answer")).to_be_hidden()


def test_errors_are_said_in_words(browser: Browser, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    busy = '{"error": {"message": "full", "type": "", "code": "queue_full"}}'
    answers = (
        ({"status": 429, "body": busy}, "busy"),
        ({"status": 400, "body": busy.replace("full", "<b>bad</b>")}, "<b>bad</b>"),
        ({"status": 500, "body": "no JSON"}, "(500)"),
        (None, "Is `freeret serve` still running?"),
    )
    # No request may reach the server: a route is replaced by the next one, not removed before it.
    for answer, words in answers:
        page.route("**/search", lambda r: r.fulfill(**answer) if answer else r.abort())  # noqa: B023
        page.get_by_role("searchbox").fill("x")
        page.keyboard.press("Enter")
        expect(page.locator("#status.error")).to_contain_text(words)
    page.close()


def test_a_token_is_asked_for_once(retriever: FreeRet, browser: Browser) -> None:
    for url in serve(retriever, token="secret"):
        page = browser.new_page()
        page.goto(url)
        for given in ("wrong", "secret"):
            page.get_by_role("textbox", name="This server needs a token").fill(given)
            page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("6 items")
        page.reload()
        expect(page.locator("#about")).to_contain_text("6 items")
        page.get_by_role("searchbox").fill("x")
        page.keyboard.press("Enter")
        expect(page.locator("#hits li")).to_have_count(6)
        expect(page.locator("#hits img[src^='blob:']")).to_have_count(7)
        decode(page)
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        page.close()


def test_every_control_has_a_name(page: Page) -> None:
    page.get_by_text("Filters").click()
    names = """[...document.querySelectorAll('input, button')].map(e =>
        e.getAttribute('aria-label') || (e.labels && e.labels[0] || e).textContent.trim())"""
    assert all(page.evaluate(names))
