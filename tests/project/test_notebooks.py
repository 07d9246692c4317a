"""Each notebook runs from top to bottom and is committed with its outputs."""

import asyncio
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SECONDS = 900


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows_a_picture(notebook: nbformat.NotebookNode) -> bool:
    """Whether an output is a figure, or a display that holds one or a thumbnail."""
    shown = [o.get("data", {}) for cell in code(notebook) for o in cell.outputs]
    return any("image/png" in data or "<img " in data.get("text/html", "") for data in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path) -> None:
    """An exception in a cell is raised here, with the cell and its traceback."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(path.parent)}}
    )
    asyncio.run(client.async_execute())
    assert shows_a_picture(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs(path: Path) -> None:
    """Readers on the web see the outputs of a run, so a notebook must not be saved without them."""
    notebook = nbformat.read(path, as_version=4)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert shows_a_picture(notebook)
    assert not any(
        o.output_type in ("error", "stream")
        and ("Traceback" in str(o) or "site-packages" in str(o))
        for cell in cells
        for o in cell.outputs
    )
