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
from freeret.evaluate.loaders.scenes import make_ground
from freeret.pages.hits import hits_page

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH, HITS = 1000, 6


def main() -> None:
    scenes = make_ground(seed=0, size=24).items
    retriever = FreeRet("smolsight", progress=True)
    with tempfile.TemporaryDirectory() as folder:
        retriever.index(scenes["pictures"], Path(folder) / "store")
        queries = [scenes["captions"][0], scenes["renderings"][2]]
        page = hits_page(retriever, queries, retriever.search_many(queries, top_n=HITS))
    screenshot(page).save(IMAGES / "search.webp", quality=85, method=6)


def screenshot(page: str) -> Image.Image:
    """The searches of a page of hits, in the light colour scheme."""
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 600}, color_scheme="light")
        tab.set_content(page, wait_until="load")
        end = tab.get_by_text("How it was searched").bounding_box()
        assert end, "the page ends with how it was searched"
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": end["y"] - 16}
        image = tab.screenshot(full_page=True, clip=clip)  # pyright: ignore
        browser.close()
    return Image.open(io.BytesIO(image))


if __name__ == "__main__":
    main()
