"""The shipped liver study in a clean clone, from the download to the report, as a user would.

    python benchmarks/shipped_study.py [--folder FOLDER]

The tests' stand-in for the GDC holds a small synthetic slide for each row of the shipped manifest,
of the class that the shipped table gives it, and a synthetic microarray is put where
`stages/liver_tma.toml` looks for one. Four things in the clone differ from what is shipped: sizes
and digests in the manifest are those of the small slides; the study's encoder and weights are those
that come with an installed package, because it must run without a network; and the table of the
array says how it lies, which a map of an array with every core in place cannot tell.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsi_pipeline.gdc import read_manifest, write_manifest
from wsi_pipeline.synthetic import SlideSpec, plan_cohort, write_slide, write_tables

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "tests" / "gdc_server" / "server.py"
SIDE = 2560  # of a slide, px
STUDY = "stages/liver_tma.toml"
WITHOUT_NETWORK = (('"densenet121"', '"tf_efficientnet_lite0"'), ('"auto"', '"package"'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, help="where the clone is made and kept")
    given = parser.parse_args()
    if given.folder is not None:
        shown(given.folder.absolute())
        return
    with tempfile.TemporaryDirectory() as name:
        shown(Path(name))


def shown(folder: Path) -> None:
    """Clone, serve, fetch, run; print what came of it."""
    clone = folder / "clone"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    records = list(served(clone, folder / "served"))
    microarray(clone / "slides" / "tma")
    table = clone / "manifests" / "tma.csv"
    table.write_text(table.read_text().rstrip("\n") + "as-scanned\n")
    study = clone / STUDY
    text = study.read_text()
    for shipped, here in WITHOUT_NETWORK:
        text = text.replace(shipped, here)
    study.write_text(text)
    process = subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
        tell(url, records)
        manifest = "manifests/gdc_tcga_liver.txt"
        user(clone, "download", manifest, "--out=slides", f"--server={url}")
    finally:
        process.kill()
        process.wait()
    user(clone, "run", STUDY)
    user(clone, "run", STUDY)  # everything is done
    found(clone / "runs" / "liver_tma")


def served(clone: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Draw a slide for each row of the manifest; yield what the stand-in holds of it."""
    path = clone / "manifests" / "gdc_tcga_liver.txt"
    with (clone / "manifests" / "liver.csv").open() as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    entries = []
    for number, entry in enumerate(read_manifest(path).entries):
        row = rows[entry.filename]
        spec = SlideSpec(
            seed=number, slide_id=Path(entry.filename).stem, patient_id=row["patient_id"],
            label=row["label"], cohort=row["cohort"], width=SIDE, height=SIDE,
            scanner=f"synthetic-{'ab'[number % 2]}",
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        write_slide(spec, folder)
        content = folder / spec.file_name
        md5 = hashlib.md5(content.read_bytes()).hexdigest()
        entries.append(replace(entry, md5=md5, size=content.stat().st_size))
        yield {"file_id": entry.id, "file_name": entry.filename, "md5sum": md5,
               "file_size": content.stat().st_size, "state": "released", "access": "open",
               "_content": str(content)}  # fmt: skip
    write_manifest(path, entries)


def microarray(folder: Path) -> None:
    """Write a microarray and its core map, as the study file names them."""
    *_, spec = plan_cohort(patients_per_label=1, tma_grid=(3, 4))
    folder.mkdir(parents=True)
    write_slide(spec, folder)
    write_tables([spec], folder)
    (folder / spec.file_name).rename(folder / "TMA1.svs")
    (folder / str(spec.tma_map)).rename(folder / "TMA1.csv")


def user(clone: Path, *words: str) -> None:
    """Run a verb as one who has cloned the project; stop where it fails."""
    print("$ wsi", *words, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "wsi_pipeline", *words], cwd=clone, check=False,
        env={**os.environ, "PYTHONPATH": str(clone)},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"wsi {words[0]} ended with exit status {done.returncode}")


def found(run: Path) -> None:
    """Print what each task came to, and what the report holds."""
    for path in sorted(run.glob("models/*/metrics.json")):
        metrics = json.loads(path.read_text())
        for each in metrics["evaluations"]:
            if each["level"] == "slide" and each["split"] in ("test", "external"):
                value = each["measures"]["balanced_accuracy"]
                print(f"{path.parent.name}, {each['model']} on {each['split']}: balanced accuracy "
                      f"{value['value']} of {each['cases']} slides")  # fmt: skip
    page = (run / "report" / "index.html").read_text()
    print("report:", ", ".join(re.findall(r"<h2[^>]*>([^<]+)", page)))


def tell(url: str, records: list[dict[str, Any]]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    told = urllib.request.Request(f"{url}/_set", data=json.dumps({"files": records}).encode())
    with opener.open(told, timeout=30) as answer:
        answer.read()


if __name__ == "__main__":
    main()
