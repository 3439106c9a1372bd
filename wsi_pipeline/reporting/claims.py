"""What a run knows of a model, each in a sentence: what a checklist may tick, and nothing else."""

from collections.abc import Iterator

from wsi_pipeline import __version__
from wsi_pipeline.learn import METRICS
from wsi_pipeline.reporting.data import (
    Evaluation,
    ModelRecord,
    ModelReport,
    Prediction,
    ReportData,
)
from wsi_pipeline.reporting.figures import with_interval

UNSEEN = ("test", "external")
KEY_MEASURES = ("auroc", "balanced_accuracy")


def claims(data: ReportData, model: ModelReport) -> dict[str, str]:
    """Return what is known, by the names that ``checklists.toml`` uses."""
    found = dict(_of_slides(data))
    found |= _of_data(model) | _of_training(model) | _of_judgement(data, model)
    return {name: words for name, words in found.items() if words}


def unseen(model: ModelReport, split: str) -> list[Evaluation]:
    """What was judged of the primary model on a part, patients first."""
    order = {"patient": 0, "slide": 1, "tile": 2}
    found = [e for e in model.evaluations if (e.model, e.split) == (model.primary, split)]
    return sorted(found, key=lambda each: order[each.level])


def intervals(model: ModelReport) -> list[str]:
    """How intervals were made, in words; one entry for each way."""
    return sorted({each.interval for each in model.evaluations if each.interval})


def openings(data: ReportData, model: ModelReport) -> int:
    """How often the external cohort was opened for a model, whose folder the ledger names."""
    folder = model.name.removesuffix(" (fine-tuned)")
    return sum(row[3].rpartition("/")[2] == folder for row in data.openings)


def _of_slides(data: ReportData) -> Iterator[tuple[str, str]]:
    a = data.alike
    if data.funnel.slides:
        first, last = data.funnel.slides[0], data.funnel.slides[-1]
        reached = f"{last.count} of {first.count} slides at the end of the report's funnel"
        yield "flow", f"{reached}, which counts what was lost by its reason"
    yield "automatic", "no person judged them: features are computed" if data.models else ""
    prepared = []
    if "mpp_requested" in a and "tile_px" in a:
        prepared.append(f"tiles of {a['tile_px']} px at {a['mpp_requested']} µm/px")
    prepared += [f"tissue by {a['tissue.method']}"] if "tissue.method" in a else []
    prepared += [f"stain {a['stain.method']}"] if "stain.method" in a else []
    yield "preparation", "; ".join(prepared)
    scanner = ("vendor", "objective_power", "mpp_native")
    known = {name: a[name] for name in scanner if a.get(name, "none") != "none"}
    yield "scanned", ", ".join(f"{name.replace('_', ' ')} {known[name]}" for name in known)
    yield "code", f"wsi_pipeline {__version__}, Apache-2.0"


def _of_data(model: ModelReport) -> dict[str, str]:
    record = model.record
    by_class: dict[str, int] = {}
    for part in record.parts:
        for name, patients in part.classes.items():
            by_class[name] = by_class.get(name, 0) + patients
    left_out = [note for note in model.notes if "left out" in note or "have no features" in note]
    return {
        "parts": ", ".join(f"{p.split} {p.patients} patients, {p.slides} slides"
                           for p in record.parts),
        "apart": "by patient: none is in two parts" if record.apart else "",
        "classes": ", ".join(f"{name} {count} patients" for name, count in by_class.items()),
        "missing": "; ".join(left_out),
    }  # fmt: skip


def _of_training(model: ModelReport) -> dict[str, str]:
    record, settings = model.record, model.record.settings
    on_features = bool(record.heads)
    heads = ", ".join(str(head["name"]) for name, head in record.heads.items() if name != "tile")
    fitted = [f"{name.replace('_', ' ')} {settings[name]}" for name in
              ("epochs", "learning_rate", "bag_learning_rate", "batch", "weight_decay", "dropout",
               "label_smoothing", "seed") if name in settings]  # fmt: skip
    test = f"features of {model.encoder}"
    if heads:
        test += f", slides scored by {model.primary}"
    folds = settings.get("folds")
    return {
        "test": test,
        "model": f"encoder {model.encoder}; on its features {heads}" if heads else "",
        "training": ", ".join(fitted),
        "choice": chosen_by(record),
        "start": f"encoder {model.encoder}, frozen; heads from seed {settings['seed']}"
        if on_features and "seed" in settings
        else "",
        "ensemble": ""
        if folds is None
        else f"mean of {folds} folds"
        if folds
        else "none: one model",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "weights": f"in the bundle, digest {record.weights}" if record.weights else "",
    }


def chosen_by(record: ModelRecord) -> str:
    """Say which epoch is kept; nothing where the run does not tell."""
    settings = record.settings
    if "epochs" not in settings or "patience" not in settings:
        return ""
    monitor = f"validation {str(settings.get('monitor', 'loss')).replace('_', ' ')}"
    stopped = f"the epoch of the best {monitor}, patience {settings['patience']}"
    fixed = "the last of a number of epochs fixed beforehand"
    schedule = settings.get("schedule", "stopped")  # runs from before there was a choice
    if schedule != "auto":
        return fixed if schedule == "fixed" else stopped
    if record.scheduled and all(record.scheduled):
        return f"{fixed}, for validation patients were too few to choose by"
    if record.scheduled and not any(record.scheduled):
        return stopped
    return f"{stopped}, or {fixed} where validation patients were too few to choose by"


def _of_judgement(data: ReportData, model: ModelReport) -> dict[str, str]:
    judged = [(split, unseen(model, split)) for split in UNSEEN]
    told = {split: _told(found[0]) for split, found in judged if found}
    measured = {name.partition("/")[0] for each in model.evaluations for name in each.measures}
    headings = [metric.heading for name, metric in METRICS.items() if name in measured]
    opened = openings(data, model)
    drawn = sum(bool(slide.heatmaps) for slide in data.slides)
    audit = [note for note in model.notes if note.startswith("audit")]
    calibrated = any(row.calibrated for row in model.sets)
    return {
        "metrics": ", ".join(headings),
        "uncertainty": "; ".join(intervals(model)),
        "internal": told.get("test", ""),
        "external": told.get("external", ""),
        "performance": "; ".join(told.values()),
        "crosstab": "confusion matrices of the parts not trained on are in the report"
        if told
        else "",
        "wrong": _wrong(data, model),
        "explained": f"heatmaps over {drawn} slides" if drawn else "",
        "frozen": "by the frozen model" if opened else "",
        "blind": "the model reads pixels alone; an external cohort is opened after it is frozen"
        if opened
        else "",
        "drift": "distance of features from training patients to external ones"
        if model.drift
        else "",
        "cutoffs": "a probability a class; the likeliest is predicted, no cut-off was tuned"
        if model.evaluations
        else "",
        "sets": "sets of classes hold what cannot be excluded" if calibrated else "",
        "refusals": _refusals(model),
        "limits": "; ".join(audit),
    }


def _refusals(model: ModelReport) -> str:
    said = ["slides prepared in another way are refused"] * bool(model.record.features)
    said += ["slides unlike those trained on are marked"] * bool(model.record.novelty_limit)
    return ", ".join(said)


def _told(found: Evaluation) -> str:
    """Say the key measures of an evaluation."""
    parts = [
        f"{METRICS[name].heading} {with_interval(found.measures[name])}"
        for name in KEY_MEASURES
        if name in found.measures and found.measures[name].value is not None
    ]
    if not parts:
        return ""
    return f"{found.split}, per {found.level}: {', '.join(parts)} ({found.patients} patients)"


def _wrong(data: ReportData, model: ModelReport) -> str:
    said: list[tuple[str, Prediction]] = [
        (slide.slide_id, each)
        for slide in data.slides
        for each in slide.predictions
        if each.bundle == model.name and each.split in UNSEEN and each.truth is not None
    ]
    if not said:
        return ""
    wrong = [slide_id for slide_id, each in said if each.wrong]
    return f"{len(wrong)} of {len(said)} slides not trained on; the report's index marks them"
