"""The house as `python -m benchmarks.structure` counts it: what a newcomer must not meet."""

from pathlib import Path

from benchmarks.structure import circles

ROOT = Path(__file__).parents[2]


def test_no_modules_import_one_another(tmp_path: Path) -> None:
    """Neither at their top, nor in functions, nor for types only; a made circle is found."""
    assert circles(ROOT) == []
    package = tmp_path / "wsi_pipeline"
    package.mkdir()
    (package / "a.py").write_text("from wsi_pipeline.b import x\n")
    (package / "b.py").write_text("def f():\n    from wsi_pipeline import c\n")
    (package / "c.py").write_text("from wsi_pipeline import a\n")
    assert circles(tmp_path) == [[f"wsi_pipeline.{name}" for name in "abc"]]
