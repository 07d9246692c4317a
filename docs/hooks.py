"""MkDocs hooks: the site includes the figures of the repository."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FIGURES = "../figures/"
"""Beginning of a figure's path in a page, which also works where the repository is browsed."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figures, which are kept beside the scripts that draw them."""
    root = Path(config.config_file_path).parent
    for figure in sorted((root / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to the figures into links within the site."""
    return markdown.replace(f"]({FIGURES}", "](figures/")
