"""What benchmarks measure on and how they tell it; what they found is no test."""

from pathlib import Path

import numpy as np
import openslide
import pytest

from benchmarks import growth, soak
from benchmarks.environments import PEERS, prepare
from benchmarks.measure import Table, interleave, to_markdown, write_tables
from benchmarks.slides import MPP, PATCH_PX, TILE_PX, Scan, write_scan
from wsi_pipeline.events import SlideDone, SlideSkipped
from wsi_pipeline.journal import read_journal
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import TileSettings
from wsi_pipeline.tiles.plan import survey_slide


@pytest.fixture(scope="module")
def patch() -> np.ndarray:
    """Coarse pink and violet blotches, as good as tissue to whoever looks for it."""
    rng = np.random.default_rng(0)
    side = PATCH_PX // 16
    blotches = rng.integers(0, 2, (side, side)).repeat(16, 0).repeat(16, 1)
    colours = np.array([[205, 130, 180], [120, 80, 150]], np.uint8)
    return colours[blotches]


@pytest.fixture(scope="module")
def scan(patch: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.svs"
    return write_scan(path, Scan(side=6000, tissue=0.5, downsamples=(1, 4)), patch)


def test_a_scan_is_an_aperio_slide_to_openslide_and_to_us(scan: Path) -> None:
    with openslide.OpenSlide(scan) as theirs, open_slide(scan) as ours:
        assert theirs.properties["openslide.vendor"] == "aperio"
        assert theirs.level_dimensions == ours.info.level_dimensions == ((6000, 6000), (1500, 1500))
        assert ours.info.mpp == MPP
        assert ours.info.reader == "jpeg-tiff"
        for level, x, y in ((0, 2900, 3071), (0, 5800, 5800), (1, 700, 811)):
            down = round(theirs.level_downsamples[level])
            region = theirs.read_region((x * down, y * down), level, (190, 170))
            expected = np.asarray(region.convert("RGB"))
            assert np.array_equal(ours.read(level, x, y, 190, 170), expected)


def test_levels_show_the_same_and_half_of_it_is_tissue(scan: Path) -> None:
    with open_slide(scan) as slide:
        whole = slide.read(0, 2048, 2048, 1024, 1024).astype(float)
        reduced = slide.read(1, 512, 512, 256, 256).astype(float)
        averaged = whole.reshape(256, 4, 256, 4, 3).mean((1, 3))
        assert np.abs(averaged - reduced).mean() < 6
        plan = survey_slide(slide, TileSettings())
    assert 0.4 < plan.wanted.mean() < 0.6


def test_tiles_that_look_the_same_share_their_bytes(patch: np.ndarray, tmp_path: Path) -> None:
    small, large = (
        write_scan(tmp_path / f"{side}.svs", Scan(side=side), patch).stat().st_size
        for side in (8192, 16_384)
    )
    tiles = (16_384**2 - 8192**2) // TILE_PX**2
    assert large - small < 20 * tiles  # two numbers a tile, on two levels


def test_contestants_take_turns_and_a_table_says_what_they_came_to(tmp_path: Path) -> None:
    order: list[str] = []

    def contestant(name: str, rate: float) -> float:
        order.append(name)
        return rate * len(order)

    rates = interleave({n: lambda n=n, r=r: contestant(n, r) for n, r in (("a", 1), ("b", 10))}, 3)
    assert order == ["a", "b"] * 3
    assert rates == {"a": [1, 3, 5], "b": [20, 40, 60]}
    table = Table(
        name="t", title="T", unit="tiles/s", rates=rates, ours=("b",), notes=("c is missing",)
    )
    text = to_markdown(table)
    assert "| a | 3 | 1 to 5 | 1.00 |" in text
    assert "| b | 40 | 20 to 60 | 13.33 |" in text
    assert "c is missing." in text
    write_tables([table], tmp_path)
    assert (tmp_path / "t.md").read_text() == text
    assert b"<svg" in (tmp_path / "t.svg").read_bytes()


def test_every_peer_has_its_scripts_and_one_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    for peer in PEERS:
        assert all(peer.script(task).is_file() for task in peer.does)
    missing = type(PEERS[0])(
        name="none", python="9.9", requirements=("nothing==1",), runner="none", does=("tile",)
    )
    reason = prepare(missing, tmp_path)
    assert isinstance(reason, str)
    assert "9.9" in reason


def test_growth_is_computed_from_what_benchmarks_wrote(tmp_path: Path) -> None:
    one, two = (list(growth.stages(count, 8800, 590)) for count in (1000, 2000))
    for single, double in zip(one, two, strict=True):
        assert double.core_hours == pytest.approx(2 * single.core_hours)
        assert double.balance == pytest.approx(single.balance)
    cut = growth.median("scaling-workers", "two workers, two cores")
    assert one[0].core_hours == pytest.approx(8_800_000 / cut * 2 / 3600)
    assert f"| {one[0].name} | {one[0].core_hours:,.0f} |" in growth.to_markdown(one)
    (tmp_path / "scaling-workers.md").write_text("| another row | 1 |\n")
    with pytest.raises(SystemExit, match="no row"):
        list(growth.stages(1, 1, 1, tmp_path))


def test_the_soak_tells_growth_from_noise() -> None:
    def samples(leak_mb: float, slower: float) -> list[soak.Sample]:
        done = np.arange(0, 1001, 5)
        seconds = done * 0.1 + slower * done**2
        return [
            soak.Sample(second=s, done=int(n), mb=200 + n % 7 + leak_mb * n, files=10, threads=4)
            for s, n in zip(seconds, done, strict=True)
        ]

    flat, leaking = soak.growth(samples(0, 0)), soak.growth(samples(0.1, 1e-4))
    assert abs(flat["kb_per_slide"]) < 2
    assert leaking["kb_per_slide"] == pytest.approx(100, abs=2)
    assert flat["first_half_ms"] == pytest.approx(flat["second_half_ms"], rel=0.02)
    assert leaking["second_half_ms"] > 1.5 * leaking["first_half_ms"]
    assert flat["files_late"] == 10


def test_a_small_soak_goes_through_and_holds_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "SECONDS", 0.05)
    run = tmp_path / "run"
    soak.draw(tmp_path, 12, patch=np.full((2048, 2048, 3), (180, 110, 160), np.uint8))
    asked = soak.commands(tmp_path, str(run))
    taken = {verb: soak.watch(verb, asked[verb], run) for verb in ("tile", "verify")}
    for verb, samples in taken.items():
        found = soak.growth(samples)
        ends = [each for each in read_journal(RunFolder(run).journal) if each.verb == verb]
        assert sum(isinstance(each.event, SlideDone | SlideSkipped) for each in ends) >= 12, verb
        assert found["files_late"] <= found["files_early"] + 5
        assert found["threads_late"] <= found["threads_early"] + 8
    assert "| `tile` |" in soak.to_markdown(taken)
    assert soak.plot(taken).startswith(b"<?xml")
