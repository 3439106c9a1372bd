"""A small run of one real slide and one lost one, and a browser's way in."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from wsi_pipeline.tile import main as tile
from wsi_pipeline.workbench import workbench_app

ID = "liver"
HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("workbench")
    table = folder / "cohort.csv"
    rows = [f"{ID},liver_glycogen_HE.tif,P1,normal,a,0.5,", "gone,gone.svs,P2,hcc,a,0.5,"]
    table.write_text("slide_id,path,patient_id,label,cohort,mpp,split\n" + "\n".join(rows) + "\n")
    made = folder / "run"
    assert tile([str(table), f"--slides={data_dir / 'slides'}", f"--run={made}", "--mpp=2"]) == 1
    return made


@pytest.fixture
def client(run: Path, tmp_path: Path) -> Iterator[TestClient]:
    mine = tmp_path / "run"
    shutil.copytree(run, mine)
    with TestClient(workbench_app(mine, None, "word"), base_url=HERE) as client:
        assert client.get("/?token=word").status_code == 200
        yield client
