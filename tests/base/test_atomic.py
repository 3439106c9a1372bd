"""Files are whole or absent, also when the writer is killed."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_pipeline.atomic import atomic_file, atomic_folder, remove_partials, write_json
from wsi_pipeline.errors import DiskFullError

KILLED = """
import os, sys, pathlib
from wsi_pipeline import atomic
with getattr(atomic, sys.argv[2])(pathlib.Path(sys.argv[1])) as partial:
    (partial / "x" if partial.is_dir() else partial).write_text("half")
    os.kill(os.getpid(), 9)
"""


def write_half(path: Path) -> None:
    with atomic_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("disk")


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="disk"):
        write_half(path)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writer", ["atomic_file", "atomic_folder"])
def test_a_killed_writer_leaves_nothing_visible(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "a[1].zarr"
    code = subprocess.run([sys.executable, "-c", KILLED, str(path), writer], check=False)
    assert code.returncode == -9
    assert not path.exists()
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    assert left[0].name.startswith(".")
    remove_partials(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for names in (("a", "b"), ("c",)):
        with atomic_folder(path) as partial:
            for name in names:
                (partial / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [28]"),
        RuntimeError("h5py: Can't write data (file write failed: No space left on device)"),
    ],
)
@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_a_full_disk_is_said_in_plain_words_and_leaves_nothing(tmp_path, kind, error):
    target = tmp_path / "S1.zarr"
    said = pytest.raises(DiskFullError, match=r"S1\.zarr: the disk is full; free some space")
    with said, kind(target):
        raise error
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(ValueError, match="odd"), atomic_folder(tmp_path / "x"):
        raise ValueError("odd")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_what_is_published_has_the_mode_of_any_new_file_and_a_temporary_is_private(tmp_path, umask):
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("x")
        (tmp_path / "folder").mkdir()
        with atomic_file(tmp_path / "file") as partial:
            partial.write_text("half")
            assert mode(partial) == 0o600
        with atomic_folder(tmp_path / "store") as partial:
            (partial / "x").write_text("half")
            assert mode(partial) == 0o700
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == mode(tmp_path / "plain") == 0o666 & ~umask
    assert mode(tmp_path / "store") == mode(tmp_path / "folder") == 0o777 & ~umask
    assert mode(tmp_path / "store" / "x") == mode(tmp_path / "plain")
