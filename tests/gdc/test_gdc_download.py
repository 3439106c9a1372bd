"""Downloads that go well, are interrupted, limited, planned, verified, or refused beforehand."""

import csv
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.download import main
from wsi_pipeline.errors import UsageError
from wsi_pipeline.gdc import ManifestEntry
from wsi_pipeline.remote import check_disk
from wsi_pipeline.remote.partial import read_state

QUICK = ("--first-wait-s=0.01", "--attempts=3", "--timeout-s=5")
Command = Callable[..., list[str]]


@pytest.fixture
def command(stand_in: Any, manifest: Callable[..., Path], tmp_path: Path) -> Command:
    """Entries to the arguments that fetch them into ``slides``."""

    def arguments(*entries: ManifestEntry) -> list[str]:
        return [
            str(manifest(list(entries))),
            f"--out={tmp_path / 'slides'}",
            f"--server={stand_in.url}",
            *QUICK,
        ]

    return arguments


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "slides"


def is_right(out: Path, entry: ManifestEntry) -> bool:
    data = (out / entry.relative_path).read_bytes()
    return hashlib.md5(data).hexdigest() == entry.md5


def statuses(out: Path) -> dict[str, str]:
    with (out / "download_report.csv").open(newline="") as file:
        return {row["id"]: row["status"] for row in csv.DictReader(file)}


def test_several_files_in_several_ranges(stand_in: Any, command: Command, out: Path) -> None:
    entries = [stand_in.add(size) for size in (1, 1 << 16, (1 << 20) + 1, 5_000_000)]
    stand_in.tell()
    assert main([*command(*entries), "--segment-mib=0.5"]) == 0
    assert all(is_right(out, entry) for entry in entries)
    assert stand_in.sent() == sum(entry.size for entry in entries)
    counts = Counter(record["path"].rpartition("/")[2] for record in stand_in.log())
    assert [counts[entry.id] for entry in entries] == [1, 1, 3, 10]
    assert len({record["connection"] for record in stand_in.log()}) <= 8
    big = [record for record in stand_in.log() if entries[3].id in record["path"]]
    assert {record["range"] for record in big} == {
        f"bytes={start}-{min(start + (1 << 19), 5_000_000) - 1}"
        for start in range(0, 5_000_000, 1 << 19)
    }


def test_ranges_of_one_file_come_side_by_side(stand_in: Any, command: Command, out: Path) -> None:
    entry = stand_in.add(4 << 18)
    stand_in.pace = 1e6
    stand_in.tell()
    assert main([*command(entry), "--segment-mib=0.25", "--connections=4"]) == 0
    spans = [(record["begun"], record["ended"]) for record in stand_in.log()]
    assert max(sum(a <= at < b for a, b in spans) for at, _ in spans) >= 3


def test_second_run_fetches_and_reads_nothing(stand_in: Any, command: Command, out: Path) -> None:
    entry = stand_in.add(100_000)
    stand_in.tell()
    assert main(command(entry)) == 0
    stand_in.tell()
    assert main(command(entry)) == 0
    assert statuses(out) == {entry.id: "present"}
    assert stand_in.log() == []


def test_changed_file_is_fetched_again(stand_in: Any, command: Command, out: Path) -> None:
    entry = stand_in.add(100_000)
    stand_in.tell()
    assert main(command(entry)) == 0
    path = out / entry.relative_path
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    assert main([*command(entry), "--verify"]) == 1
    assert statuses(out) == {entry.id: "damaged"}
    assert main(command(entry)) == 0
    assert is_right(out, entry)


def test_a_byte_flipped_on_disk_is_fetched_again_once_verify_has_found_it(
    stand_in: Any, command: Command, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Size and times are as they were; before, the next run said "there already, verified"."""
    entry = stand_in.add(100_000)
    stand_in.tell()
    assert main(command(entry)) == 0
    path = out / entry.relative_path
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main([*command(entry), "--verify"]) == 1
    capsys.readouterr()
    assert main([*command(entry), "--dry-run"]) == 0
    assert "100.00 kB to fetch" in capsys.readouterr().out
    assert main(command(entry)) == 0
    assert is_right(out, entry)
    assert statuses(out) == {entry.id: "downloaded"}
    assert main([*command(entry), "--verify"]) == 0


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"half a li", b"a\tb\tc\td\te\n", b"\t\t\t\n"])
def test_a_damaged_record_of_what_is_verified_costs_a_second_look(
    stand_in: Any, command: Command, out: Path, damage: bytes
) -> None:
    entry, late = stand_in.add(100_000), stand_in.add(1000)
    stand_in.tell()
    assert main(command(entry)) == 0
    record = out / "verified.tsv"
    record.write_bytes(damage)
    stand_in.tell()
    assert main(command(entry, late)) == 0
    assert statuses(out) == {entry.id: "present", late.id: "downloaded"}
    assert stand_in.sent() == 1000
    record.write_bytes(record.read_bytes() + damage)
    assert main(command(entry, late)) == 0
    assert set(statuses(out).values()) == {"present"}


def test_what_a_killed_download_left_beside_a_finished_file_goes(
    stand_in: Any, command: Command, out: Path
) -> None:
    entry, late = stand_in.add(100_000), stand_in.add(1000)
    stand_in.tell()
    assert main(command(entry)) == 0
    record, state = out / "verified.tsv", f"{out / entry.relative_path}.partial.state"
    (line,) = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(line + line[:40])  # the next file's line, half of it
    Path(state).write_bytes(b"{}\n")
    stand_in.tell()
    assert main(command(entry, late)) == 0
    assert is_right(out, late)
    assert not list(out.rglob("*.partial*"))
    lines = record.read_bytes().splitlines(keepends=True)
    assert lines[0] == line
    assert [each.count(b"\t") for each in lines] == [3, 3]


def test_a_folder_in_the_place_of_what_is_verified(
    stand_in: Any, command: Command, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "verified.tsv").mkdir(parents=True)
    stand_in.tell()
    assert main(command(stand_in.add(10))) == 2
    assert "what has been verified cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("/proc/slides", "No such file"),
        ("{file}/slides", "Not a directory"),
        ("{file}", "Not a directory"),
        ("{folder}/" + "x" * 300, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_written_to(
    stand_in: Any,
    command: Command,
    tmp_path: Path,
    where: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    stand_in.tell()
    entry = stand_in.add(10)
    arguments = [*command(entry), f"--out={where.format(file=file, folder=tmp_path)}"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "no files can be written there" in said
    assert reason in said
    assert stand_in.log() == []


@pytest.mark.parametrize("flag", ["--report", "--manifest-out"])
def test_another_file_that_cannot_be_written(
    stand_in: Any, command: Command, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = stand_in.add(10)
    stand_in.tell()
    assert main([*command(entry), f"{flag}=/proc/nowhere/it.csv"]) == 2
    assert "/proc/nowhere/it.csv: it cannot be written" in capsys.readouterr().err


def test_two_files_of_one_name_are_two_slides(
    stand_in: Any, command: Command, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = stand_in.add(1000, "same.svs"), stand_in.add(2000, "same.svs")
    stand_in.tell()
    assert main(command(one, other)) == 0
    assert is_right(out, one)
    assert is_right(out, other)
    said = capsys.readouterr().out
    assert all(f"same-{entry.id}: done" in said for entry in (one, other))


def test_file_of_another_tool_is_read_once_and_kept(
    stand_in: Any, command: Command, out: Path
) -> None:
    entry = stand_in.add(100_000)
    stand_in.tell()
    path = out / entry.relative_path
    path.parent.mkdir(parents=True)
    path.write_bytes(Path(stand_in.files[0]["_content"]).read_bytes())
    assert main(command(entry)) == 0
    assert stand_in.log() == []
    assert entry.md5 in (out / "verified.tsv").read_text()


def test_note_for_gdc_client(stand_in: Any, command: Command, out: Path) -> None:
    """gdc-client takes a file as finished when this note says that all of its bytes are there."""

    class Interval(tuple[Any, ...]):
        __slots__ = ()

        def __new__(cls, *values: Any) -> "Interval":
            return super().__new__(cls, values)

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            known = {
                ("intervaltree.interval", "Interval"): Interval,
                ("intervaltree.intervaltree", "IntervalTree"): list,
            }
            return known[module, name]

    entry = stand_in.add(123_456)
    stand_in.tell()
    assert main(command(entry)) == 0
    note = out / entry.id / "logs" / f"{entry.filename}.parcel"
    with note.open("rb") as file:
        assert Reader(file).load() == [Interval(0, 123_456, None)]


def test_verify_names_what_is_missing(stand_in: Any, command: Command, out: Path) -> None:
    whole, short, gone = (stand_in.add(1000) for _ in range(3))
    stand_in.tell()
    assert main(command(whole, short, gone)) == 0
    (out / gone.relative_path).unlink()
    with (out / short.relative_path).open("r+b") as file:
        file.truncate(999)
    stand_in.tell()
    assert main([*command(whole, short, gone), "--verify", f"--out={out / 'elsewhere'}"]) == 2
    assert not (out / "elsewhere").exists()
    assert main([*command(whole, short, gone), "--verify"]) == 1
    assert statuses(out) == {whole.id: "present", short.id: "damaged", gone.id: "missing"}
    assert stand_in.log() == []


def test_dry_run_says_the_size_and_writes_nothing(
    stand_in: Any, command: Command, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [stand_in.add(1500), stand_in.add(500)]
    stand_in.tell()
    assert main([*command(*entries), "--dry-run"]) == 0
    assert "2 files, 2.00 kB (2000 bytes); 2.00 kB to fetch" in capsys.readouterr().out
    assert not out.exists()
    assert stand_in.log() == []


def test_report_as_json(stand_in: Any, command: Command, tmp_path: Path) -> None:
    entry = stand_in.add(1500)
    stand_in.tell()
    report = tmp_path / "report.json"
    assert main([*command(entry), f"--report={report}"]) == 0
    (row,) = json.loads(report.read_text())
    assert (row["status"], row["received_bytes"], row["requests"]) == ("downloaded", 1500, 1)
    assert main([*command(entry), f"--report={tmp_path / 'report.xlsx'}"]) == 2


def test_rate_limit(stand_in: Any, command: Command) -> None:
    entry = stand_in.add(1_500_000)
    stand_in.tell()
    begun = time.monotonic()
    assert main([*command(entry), "--max-mb-per-s=1"]) == 0
    assert time.monotonic() - begun > 1.2


def test_rows_that_are_no_slides(
    stand_in: Any, command: Command, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide, table = stand_in.add(1000), stand_in.add(1000, "reads.bam")
    stand_in.tell()
    assert main(command(slide, table)) == 2
    assert "1 of 2 rows are no slides (the first is reads.bam in line 3)" in capsys.readouterr().err
    assert not list(out.rglob("*.svs"))
    assert main([*command(slide, table), "--non-slides=skip"]) == 0
    assert statuses(out) == {slide.id: "downloaded", table.id: "skipped"}
    assert main([*command(slide, table), "--non-slides=fetch"]) == 0
    assert is_right(out, table)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_token_that_others_can_read(
    stand_in: Any, command: Command, tmp_path: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(mode)
    stand_in.tell()
    assert main([*command(stand_in.add(10)), f"--token-file={token}"]) == 2
    error = capsys.readouterr().err
    assert f"mode {mode:04o}" in error
    assert f"chmod 600 {token}" in error
    assert "secret" not in error
    assert stand_in.log() == []


def test_disk_too_small(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"900\.00 TB are still to fetch, but only .* free"):
        check_disk(tmp_path / "not" / "there", 900 * 10**12)
    check_disk(tmp_path, 0)


def test_a_download_that_is_refused_leaves_no_folder(
    stand_in: Any, command: Command, out: Path, tmp_path: Path, capsys: Any
) -> None:
    """Also where something was said before: here that a row stands twice."""
    entry = replace(stand_in.add(1000), size=900 * 10**12)
    line = command(entry)
    manifest = Path(line[0])
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[-1] + "\n")
    assert main(line) == 2
    said = capsys.readouterr()
    assert "1 repeated rows count once" in said.out
    assert "900.00 TB are still to fetch" in said.err
    assert not out.exists()


def test_two_downloads_into_one_folder(
    stand_in: Any, command: Command, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = stand_in.add(10)
    stand_in.tell()
    with try_lock(out / ".download.lock") as ours:
        assert ours
        code = "import sys; from wsi_pipeline.download import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, *command(entry)],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert "another download is writing here" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a manifest or --query"),
        (["m.txt"], "--out is missing"),
        (["m.txt", "--verify"], "--verify needs"),
        (["m.txt", "--out=x", "--cohort-out=c.csv"], "go with --query"),
        (["m.txt", "--out=x"], "m.txt: there is no such manifest"),
        (["m.txt", "--out=x", "--server=ftp://x"], "is no http:// or https:// address"),
        (["m.txt", "--out=x", "--connections=0"], "connections"),
    ],
)
def test_wrong_requests(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def arrived(out: Path, entry: ManifestEntry) -> int:
    state = read_state(out / entry.relative_path, entry.size, entry.md5)
    return sum(state.counts) if state else 0


def test_interrupt_ends_at_once_and_keeps_what_came(
    stand_in: Any, command: Command, out: Path
) -> None:
    entry = stand_in.add(3_000_000)
    stand_in.fault("stall_body", after=600_000, first=None)
    stand_in.tell()
    arguments = [*command(entry), "--timeout-s=60", "--segment-mib=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_pipeline.download", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, as a CI may be, hands down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 30
    while arrived(out, entry) < 3 * 600_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=40)
    assert time.monotonic() - begun < 10, "it waited for the stalled connections"
    assert process.returncode == 130
    assert "the same command goes on from there" in error
    assert statuses(out) == {}
    stand_in.faults.clear()
    stand_in.tell()
    assert main(command(entry)) == 0
    assert is_right(out, entry)
    assert stand_in.sent() == 3_000_000 - 3 * 600_000


def test_disk_error_is_the_files_failure(stand_in: Any, command: Command, out: Path) -> None:
    """A folder stands where the file should go: that file fails, the other comes."""
    blocked, free = stand_in.add(1000), stand_in.add(1000)
    stand_in.tell()
    (out / blocked.relative_path / "in the way").mkdir(parents=True)
    assert main(command(blocked, free)) == 1
    assert statuses(out) == {blocked.id: "failed", free.id: "downloaded"}
    assert [path.name for path in (out / blocked.relative_path).iterdir()] == ["in the way"]


def test_unusable_state_is_started_over(stand_in: Any, command: Command, out: Path) -> None:
    entry = stand_in.add(100_000)
    stand_in.tell()
    folder = out / entry.id
    folder.mkdir(parents=True)
    (folder / f"{entry.filename}.partial").write_bytes(b"x" * 500_000)
    (folder / f"{entry.filename}.partial.state").write_bytes(b'{"version": 1}\n')
    assert main(command(entry)) == 0
    assert is_right(out, entry)
    assert stand_in.sent() == 100_000
