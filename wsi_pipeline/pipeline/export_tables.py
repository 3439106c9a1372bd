"""Who is who for the tools that features are exported to: their tables, and how to start them.

CLAM reads ``dataset_csv/<run>.csv`` and ``splits/<run>/splits_0.csv``, STAMP ``slide.csv`` and
``clini.csv``. Splits and classes are those of a model of the run, so that both are trained and
tested on the same patients; without a model they are drawn as training would.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import ConfigError, LearnError, named
from wsi_pipeline.events import Event, Note, Written
from wsi_pipeline.learn import (
    FOLD,
    Splits,
    SplitSettings,
    SplitSlide,
    draw_splits,
    labelled,
    read_splits,
    splits_digest,
)
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.tables import to_csv

PARTS: Final = ("train", "val", "test")
CLAM_B: Final = 8  # patches that CLAM takes of a bag by default; a smaller bag stops it
HOW: Final = "how_to_run.txt"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported.

    Attributes:
        run: The run folder.
        out: Where to.
        tiles: Slide to its number of tiles.
        width: Of a feature.
        model: Whose splits and classes are told; None the only ones there are.
    """

    run: RunFolder
    out: Path
    tiles: dict[str, int]
    width: int
    model: str | None

    @property
    def name(self) -> str:
        """Of the study, in names of files."""
        return self.run.root.absolute().name


def write_clam_tables(made: Exported) -> Iterator[Event]:
    """Write what CLAM's ``main.py`` reads beside features.

    Raises:
        ConfigError: There is no such model.
    """
    small = sorted(name for name, count in made.tiles.items() if count < CLAM_B)
    if small:
        fewest = min(made.tiles[name] for name in small)
        yield Note(
            text=f"{len(small)} slides have fewer than the {CLAM_B} tiles that CLAM's --B asks for "
            f"({named(small)}), on which its training stops: pass --B {fewest}, or leave them out"
        )
    folds, notes = _folds(made)
    yield from notes
    slides = [slide for slide in folds[0] if slide.slide_id in made.tiles] if folds else []
    if not slides:
        return
    classes = sorted({slide.label for slide in slides})
    rows = [(slide.patient_id, slide.slide_id, slide.label) for slide in slides]
    table = made.out / "dataset_csv" / f"{made.name}.csv"
    write_text(table, to_csv(["case_id", "slide_id", "label"], rows))
    for number, fold in enumerate(folds):
        _write_clam_split(made, number, fold)
    write_text(made.out / HOW, _clam_words(made, classes, len(folds)))
    yield Written(path=str(table), what="table of slides for CLAM, with splits")


def _write_clam_split(made: Exported, number: int, fold: Splits) -> None:
    """Write a column of slides for each part, as CLAM's own script does."""
    columns = [[s.slide_id for s in fold if s.split == part and s.slide_id in made.tiles]
               for part in PARTS]  # fmt: skip
    rows = [
        [row, *(column[row] if row < len(column) else "" for column in columns)]
        for row in range(max(map(len, columns)))
    ]
    path = made.out / "splits" / made.name / f"splits_{number}.csv"
    write_text(path, to_csv(["", *PARTS], rows))


def _clam_words(made: Exported, classes: Sequence[str], folds: int) -> str:
    labels = {name: number for number, name in enumerate(classes)}
    out, name = made.out.absolute(), made.name
    table, splits = out / "dataset_csv" / f"{name}.csv", out / "splits" / name
    subtyping = " --subtyping" if len(classes) > 2 else ""
    return f"""CLAM names its tasks in main.py. Put this before the last "else:" of the tasks there,
and {name!r} among the choices of --task:

elif args.task == {name!r}:
    args.n_classes = {len(classes)}
    dataset = Generic_MIL_Dataset(csv_path={str(table)!r},
                                  data_dir=args.data_root_dir,
                                  shuffle=False, seed=args.seed, print_info=True,
                                  label_dict={labels!r},
                                  patient_strat=False, ignore=[])

python main.py --task {name} --data_root_dir {out} \\
    --split_dir {splits} --k {folds} --embed_dim {made.width} \\
    --model_type clam_sb --exp_code {name}{subtyping}
"""


def write_stamp_tables(made: Exported) -> Iterator[Event]:
    """Write what STAMP's ``train`` and ``crossval`` read beside features.

    STAMP tells patients apart, not slides: whose slides have several labels is left out, and told.

    Raises:
        ConfigError: There is no such model.
    """
    folds, notes = _folds(made)
    yield from notes
    slides = [slide for slide in folds[0] if slide.slide_id in made.tiles] if folds else []
    labels: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        labels[slide.patient_id].add(slide.label)
    mixed = sorted(patient for patient, found in labels.items() if len(found) > 1)
    if mixed:
        yield Note(
            text=f"{len(mixed)} patients have slides of several labels ({named(mixed)}); STAMP "
            "knows one a patient, so they are in none of its tables"
        )
    kept = [slide for slide in slides if slide.patient_id not in mixed]
    if not kept:
        return
    files = [(s.patient_id, f"{s.slide_id}.h5", s.split) for s in kept]
    write_text(made.out / "slide.csv", to_csv(["PATIENT", "FILENAME", "split"], files))
    for name, wanted in (("clini.csv", False), ("clini_external.csv", True)):
        rows = {
            s.patient_id: (s.patient_id, s.label, s.cohort)
            for s in kept
            if (s.split == "external") == wanted
        }
        if rows:
            text = to_csv(["PATIENT", "label", "cohort"], rows.values())
            write_text(made.out / name, text)
    write_text(made.out / "config.yaml", _stamp_words(made, kept))
    yield Written(path=str(made.out / "slide.csv"), what="tables of slides and patients for STAMP")


def _stamp_words(made: Exported, slides: Sequence[SplitSlide]) -> str:
    out = made.out.absolute()
    classes = ", ".join(f'"{name}"' for name in sorted({slide.label for slide in slides}))
    settings = f"""  output_dir: "{out / "stamp"}"
  clini_table: "{out / "clini.csv"}"
  slide_table: "{out / "slide.csv"}"
  feature_dir: "{out}"
  task: "classification"
  ground_truth_label: "label"
  categories: [{classes}]
  patient_label: "PATIENT"
  filename_label: "FILENAME"
"""
    return f"""# stamp --config {out / "config.yaml"} crossval
# Patients of the external cohort, if there are any, are in clini_external.csv, for stamp deploy.
training:
{settings}
crossval:
{settings}  n_splits: 5
"""


def _folds(made: Exported) -> tuple[list[Splits], list[Note]]:
    """Return splits, one or those of each fold, and what is to be said; none without labels.

    Raises:
        ConfigError: There is no such model.
    """
    found = {path.name: _of_model(path) for path in made.run.bundles()}
    if made.model is not None:
        if made.model not in found:
            there = ", ".join(found) or "none"
            raise ConfigError(f"--splits-of {made.model}: no such model; there are {there}")
        return found[made.model], []
    if len({tuple(map(splits_digest, folds)) for folds in found.values()}) == 1:
        return next(iter(found.values())), []
    notes = []
    if found:
        notes.append(
            f"the models {named(sorted(found))} were split differently: the tables take splits "
            "drawn anew; name a model with --splits-of"
        )
    folds: list[Splits] = []
    try:
        slides = labelled(rows_of(made.run))
        if slides:
            inside = tuple(slide for slide in slides if slide.split != "external")
            folds = draw_splits(inside, SplitSettings())
        else:
            notes.append("no slide has a label: features alone are written, and no tables")
    except LearnError as error:
        notes.append(f"no tables are written: {error}")
    return folds, [Note(text=text) for text in notes]


def _of_model(folder: Path) -> list[Splits]:
    folds = sorted(
        folder.glob(f"{FOLD.format('*')}/{BundleFile.SPLITS}"),
        key=lambda path: int(path.parent.name.rpartition("-")[2]),
    )
    return [read_splits(path) for path in folds or [folder / BundleFile.SPLITS]]
