from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def texts(path: Path) -> list[str]:
    """Return what a notebook's cells of text say."""
    return ["".join(cell["source"]) for cell in read(path) if cell["cell_type"] == "markdown"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Jupyter's
def test_runs_from_clean(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # small tensors gain nothing from more
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = nbformat.read(path, as_version=4)
    (tmp_path / "work").mkdir()
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = {kind for output in outputs for kind in output.get("data", {})}
    assert drawn & {"text/html", "image/png"}
    told = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in told  # what `han fit` tells goes there, too


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestAsItIsKept:
    def test_is_executed_without_errors_and_small(self, path: Path) -> None:
        code = [cell for cell in read(path) if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
        kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
        assert "error" not in kinds
        assert path.stat().st_size < 200_000

    def test_opens_with_what_it_shows_and_ends_with_what_to_try(self, path: Path) -> None:
        first, *_, last = texts(path)
        assert re.match(r"# \S.*\n\n\S", first)
        assert "## What to try\n\n- " in last
        assert read(path)[0]["cell_type"] == read(path)[-1]["cell_type"] == "markdown"

    def test_links_lead_somewhere(self, path: Path) -> None:
        links = re.findall(r"\]\(([^)#]+)\)", "\n".join(texts(path)))
        assert all((FOLDER / link).is_file() for link in links if "://" not in link)

    def test_the_readme_lists_it(self, path: Path) -> None:
        readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
        assert f"(notebooks/{path.name})" in readme
