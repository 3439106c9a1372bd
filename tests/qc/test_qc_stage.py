"""From flags over a person's table to features, by the command line, on a real slide."""

import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline import extract, qc, tile
from wsi_pipeline.errors import CohortError, ConfigError, StoreMismatchError
from wsi_pipeline.features import read_features
from wsi_pipeline.pipeline.qc import run as run_qc
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import TileStore, open_tiles
from wsi_pipeline.tiles.decisions import (
    PATH,
    Decision,
    check_places,
    propose,
    read_decisions,
    write_decisions,
)
from wsi_pipeline.tiles.flags import store_marks
from wsi_pipeline.verbs.tiles import QcConfig

ID = "CMU-1-Small-Region"
FEATURES = Path("features") / "test_resnet.random-seed0" / f"{ID}.h5"
ENCODER = ["--encoder", "test_resnet", "--weights", "random", "--device", "cpu"]
PEN = "0.0115"  # so low that nuclei pass for pen: the slide has no ink


@pytest.fixture(scope="module")
def cut(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one real slide's tiles, some of them flagged."""
    folder = tmp_path_factory.mktemp("qc")
    slides = folder / "slides"
    slides.mkdir()
    shutil.copy(data_dir / "slides" / f"{ID}.svs", slides)
    run = folder / "run"
    assert tile.main([str(slides), "--run", str(run), "--max-pen-fraction", PEN]) == 0
    return run


@pytest.fixture
def run(cut: Path, tmp_path: Path) -> Path:
    shutil.copytree(cut, tmp_path / "run")
    return tmp_path / "run"


def stored(run: Path) -> TileStore:
    return open_tiles(run / "tiles" / f"{ID}.zarr")


def table(run: Path) -> list[dict[str, str]]:
    with (run / PATH).open(newline="") as file:
        return list(csv.DictReader(file))


def edit(run: Path, rows: list[dict[str, str]]) -> None:
    with (run / PATH).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["slide_id", "x", "y", "decision", "reason"])
        writer.writeheader()
        writer.writerows(rows)


def encoded(run: Path) -> np.ndarray:
    return read_features(run / FEATURES).coords


def test_what_the_table_drops_is_not_encoded(run: Path) -> None:
    assert qc.main([str(run)]) == 0
    store = stored(run)
    pen = store_marks(store)["pen"]
    assert 2 < pen.sum() < len(store) / 2
    rows = table(run)
    assert [(r["x"], r["y"], r["decision"]) for r in rows][:1] == [("", "", "keep")]
    assert [[int(r["x"]), int(r["y"])] for r in rows[1:]] == store.coords[pen].tolist()
    assert {r["decision"] for r in rows[1:]} == {"drop"}
    assert all(re.fullmatch(rf"pen 0\.0\S+ over {PEN}", r["reason"]) for r in rows[1:])
    assert extract.main([str(run), *ENCODER]) == 0
    assert np.array_equal(encoded(run), store.coords[~pen])
    bag = read_features(run / FEATURES)
    everything = run.with_name("all")
    shutil.copytree(run / "tiles", everything / "tiles")
    assert extract.main([str(everything), *ENCODER]) == 0
    whole = read_features(everything / FEATURES)
    np.testing.assert_allclose(bag.features, whole.features[~pen], rtol=1e-4, atol=1e-5)


def test_a_person_flips_a_decision_and_the_next_run_notices(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qc.main([str(run)])
    extract.main([str(run), *ENCODER])
    first = len(encoded(run))
    assert extract.main([str(run), *ENCODER]) == 0  # nothing changed: nothing to do
    rows = table(run)
    rows[1]["decision"] = "keep"
    edit(run, rows)
    capsys.readouterr()
    assert extract.main([str(run), *ENCODER]) == 1
    said = "".join(capsys.readouterr())
    assert "dropped_tiles" in said
    assert "--overwrite" in said
    assert len(encoded(run)) == first
    assert extract.main([str(run), *ENCODER, "--overwrite"]) == 0
    assert len(encoded(run)) == first + 1
    # the table is a person's now: it stays, and the page shows what it says
    assert qc.main([str(run)]) == 0
    assert table(run) == rows
    page = (run / "qc" / "index.html").read_text("utf-8")
    assert len(re.findall(r'<button[^>]*aria-pressed="true"', page)) == len(rows) - 2
    assert qc.main([str(run), "--overwrite"]) == 0
    assert table(run)[1]["decision"] == "drop"


def test_a_dropped_slide_leaves_no_features_behind(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qc.main([str(run)])
    extract.main([str(run), *ENCODER])
    edit(run, [{"slide_id": ID, "x": "", "y": "", "decision": "drop", "reason": "wrong organ"}])
    assert extract.main([str(run), *ENCODER]) == 1
    assert "--overwrite to remove it" in "".join(capsys.readouterr()).replace("\n", " ")
    assert (run / FEATURES).exists()
    assert extract.main([str(run), *ENCODER, "--overwrite"]) == 0
    assert not (run / FEATURES).exists()


def test_tiles_cut_as_they_are_needed_are_dropped_alike(run: Path, data_dir: Path) -> None:
    qc.main([str(run)])
    direct = run.with_name("direct")
    shutil.copytree(run / "qc", direct / "qc")
    asked = run.with_name("tile.toml")
    asked.write_text(f"max_pen_fraction = {PEN}\n")
    flags = ["--source", "slide", "--tile-settings", str(asked)]
    slides = ["--cohort", str(run / "cohort.csv"), "--slides", str(data_dir / "slides")]
    assert extract.main([str(direct), *ENCODER, *flags, *slides]) == 0
    store = stored(run)
    assert np.array_equal(encoded(direct), store.coords[~store_marks(store)["pen"]])


def test_a_slide_cut_anew_is_not_judged_by_an_old_table(run: Path) -> None:
    qc.main([str(run)])
    row = {"slide_id": ID, "x": "7", "y": "9", "decision": "drop", "reason": ""}
    edit(run, [*table(run), row])
    assert extract.main([str(run), *ENCODER]) == 1
    assert not (run / FEATURES).exists()
    with pytest.raises(StoreMismatchError, match=r"x=7, y=9.*--overwrite"):
        check_places(ID, stored(run).coords, {(7, 9)})


def test_a_slide_that_would_lose_too_much_is_kept_whole(run: Path) -> None:
    store = stored(run)
    rows = propose(ID, store, ["pen"], 0.01)
    assert {row.choice for row in rows} == {"keep"}
    assert "too many to drop" in rows[0].reason
    assert sum(row.choice == "drop" for row in propose(ID, store, ["pen"], 0.9)) > 2
    assert {row.choice for row in propose(ID, store, ["blood"], 0.9)} == {"keep"}


def test_a_dry_run_counts_and_writes_nothing(run: Path) -> None:
    events = list(run_qc(QcConfig(run=run, dry_run=True)))
    (row,) = [event.row for event in events if hasattr(event, "row")]
    assert row["flagged"] == row["pen"] == row["dropped by the table"] > 0
    assert not (run / "qc").exists()


def test_a_folder_without_tiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wsi_pipeline\.tile"):
        list(run_qc(QcConfig(run=tmp_path)))


places = st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20)
decisions = st.builds(
    Decision,
    slide_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True),
    place=places,
    choice=st.sampled_from(["keep", "drop"]),
    reason=texts.map(str.strip),
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(decisions, unique_by=lambda row: (row.slide_id, row.place), max_size=12))
def test_the_table_says_what_was_written(
    rows: list[Decision], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "decisions.csv"
    write_decisions(path, rows)
    found = read_decisions(path)
    assert found.rows == tuple(rows)
    for row in rows:
        dropped = row.choice == "drop"
        if row.place is None:
            assert found.drops_slide(row.slide_id) == dropped
        else:
            assert (row.place in found.dropped_tiles(row.slide_id)) == dropped


def test_every_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text(
        "slide_id,x,y,decision,reason\n"
        "a,1,2,discard,\na,1,,drop,\n,1,2,drop,\na,3,4,drop,\na,3,4,KEEP,again\n"
    )
    with pytest.raises(CohortError) as caught:
        read_decisions(path)
    said = str(caught.value).splitlines()
    assert [re.search(r"line (\d)", line)[1] for line in said] == ["2", "3", "4", "6"]  # type: ignore[index]
    path.write_text("slide,x,y,decision\na,1,2,drop\n")
    with pytest.raises(CohortError, match="slide_id missing"):
        read_decisions(path)
    assert read_decisions(tmp_path / "none.csv").rows == ()


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


PROBE = """<script>
const create = URL.createObjectURL;
URL.createObjectURL = (blob) => {
  blob.text().then((text) => document.body.setAttribute("data-csv", encodeURIComponent(text)));
  return create(blob);
};
document.querySelector(".tiles [data-row]").click();
document.querySelector(".whole").click();
document.body.setAttribute("data-said", document.querySelector(".tools p").textContent);
window.addEventListener("load", () => {
  const widths = [...document.images].map((image) => image.naturalWidth);
  document.body.setAttribute("data-images", widths.join(" "));
});
document.querySelector("[data-download]").click();
</script></body>"""


def test_the_page_loads_nothing_from_outside(run: Path) -> None:
    qc.main([str(run)])
    text = (run / "qc" / "index.html").read_text("utf-8")
    for tag, attributes in Tags(text).found:
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert re.fullmatch(r"|#.*|pictures/[0-9a-f]{24}\.webp", value), (tag, name)
    assert "http" not in re.sub(r'"data:[^"]*"|http-equiv', "", text)


def pictures(run: Path) -> dict[str, np.ndarray]:
    """Pictures of the page by their words."""
    text = (run / "qc" / "index.html").read_text("utf-8")
    found = {}
    for tag, attributes in Tags(text).found:
        if tag == "img":
            with Image.open(run / "qc" / (attributes["src"] or "")) as image:
                found[attributes["alt"] or ""] = np.asarray(image, np.int16)
    return found


def test_flagged_tiles_are_shown_as_scanned_beside_as_normalised(run: Path, data_dir: Path) -> None:
    assert qc.main([str(run)]) == 0
    store, found = stored(run), pictures(run)
    side = int(store.attributes["tile_px_level0"])
    rows = np.flatnonzero(store_marks(store)["pen"])
    with open_slide(data_dir / "slides" / f"{ID}.svs") as slide:
        for row in rows:
            x, y = store.coords[row].tolist()
            before = found[f"Tile of {ID} at {x}, {y}, as scanned"]
            after = found[f"Tile of {ID} at {x}, {y}, normalised"]
            for shown, own in (
                (before, slide.read(0, x, y, side, side)),
                (after, store.tiles[row]),
            ):
                small = cv2.resize(own, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
                assert np.abs(shown - small.astype(np.int16)).mean() < 8
            assert np.abs(before - after).mean() > 4


def test_a_slide_that_is_not_at_hand_is_said(run: Path, data_dir: Path, tmp_path: Path) -> None:
    cohort = run / "cohort.csv"
    text = cohort.read_text().replace(f"{ID}.svs", f"gone/{ID}.svs")
    cohort.write_text(text)
    assert qc.main([str(run)]) == 0
    page = (run / "qc" / "index.html").read_text("utf-8")
    assert "The slide is not at hand" in page
    assert "only the normalised tiles are shown" in page
    assert not any("as scanned" in words for words in pictures(run))
    (tmp_path / "gone").mkdir()
    shutil.copy(data_dir / "slides" / "liver_glycogen_HE.tif", tmp_path / "gone" / f"{ID}.svs")
    assert qc.main([str(run), "--slides", str(tmp_path)]) == 0
    assert "is another slide" in (run / "qc" / "index.html").read_text("utf-8")
    assert not any("as scanned" in words for words in pictures(run))


def test_clicks_change_the_table_that_is_downloaded(run: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed, so the page is not opened in a browser")
    qc.main([str(run)])
    probe = run / "qc" / "probe.html"
    page = (run / "qc" / "index.html").read_text("utf-8")
    probe.write_text(page.replace(' loading="lazy"', "").replace("</body>", PROBE), "utf-8")
    dom = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=2000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    ).stdout  # fmt: skip
    from urllib.parse import unquote

    (text,) = re.findall(r'data-csv="([^"]*)"', dom)
    (run / PATH).write_text(unquote(text), "utf-8")
    after = read_decisions(run / PATH)
    before = {row.place: row.choice for row in propose(ID, stored(run), ["pen"], 0.5)}
    changed = [row for row in after.rows if before[row.place] != row.choice]
    assert sorted((row.place is None, row.choice) for row in changed) == [
        (False, "keep"), (True, "drop")
    ]  # fmt: skip
    assert f"{len(before) - 2} tiles and 1 slides dropped" in " ".join(dom.split())
    (widths,) = re.findall(r'data-images="([^"]*)"', dom)
    assert len(widths.split()) == 1 + 2 * (len(before) - 1)  # the overview; tiles, before and after
    assert "0" not in widths.split()
