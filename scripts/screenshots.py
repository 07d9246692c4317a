"""Take the screenshots of the documentation in Chromium.

    python scripts/screenshots.py

Writes docs/images/search.webp: two searches of `smolsight` in a store of pictures.
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from freeret import FreeRet
from freeret.evaluate.loaders.pictures import captioned_pictures
from freeret.pages.hits import hits_page
from probes import Item

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH, HITS = 1000, 3
WORDS, PICTURE = "something hot to drink", "alps.webp"
"""The two queries; the picture is not in the store."""


def main() -> None:
    _, pictures = captioned_pictures("all")
    others = [picture for picture in pictures if picture.id != PICTURE]
    queries = [Item(WORDS), *(picture for picture in pictures if picture.id == PICTURE)]
    retriever = FreeRet("smolsight", progress=True)
    with tempfile.TemporaryDirectory() as folder:
        retriever.index(others, Path(folder) / "store")
        page = hits_page(retriever, queries, retriever.search_many(queries, top_n=HITS))
    screenshot(page).save(IMAGES / "search.webp", quality=85, method=6)


def screenshot(page: str) -> Image.Image:
    """The searches of a page of hits, in the light colour scheme."""
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 600}, color_scheme="light")
        tab.set_content(page, wait_until="load")
        end = tab.get_by_text("How these hits were found").bounding_box()
        assert end, "the page ends with how its hits were found"
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": end["y"] - 16}
        image = tab.screenshot(full_page=True, clip=clip)  # pyright: ignore
        browser.close()
    return Image.open(io.BytesIO(image))


if __name__ == "__main__":
    main()
