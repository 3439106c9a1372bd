"""The audit names planted leaks, each in words, and leaves a clean cohort alone."""

import csv
import io
from dataclasses import replace
from itertools import combinations

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import StoreCorruptError, named
from wsi_pipeline.learn import FeatureFolder, SplitSettings, labelled, split_patients
from wsi_pipeline.learn.audit import Audit, SlideEvidence, audit_table, find_nuisances
from wsi_pipeline.learn.audit.copies import find_copies, read_pictures
from wsi_pipeline.learn.audit.finding import connected
from wsi_pipeline.learn.audit.patients import too_few_to_split, too_few_to_test
from wsi_pipeline.learn.audit.slides import find_same_slides, find_similar_slides
from wsi_pipeline.learn.audit.tiles import find_similar_tiles
from wsi_pipeline.learn.splits import SplitSlide


def make_cohort(nuisance, patients=20, labels=("normal", "tumour")):
    """Two slides a patient; ``nuisance(label, patient)`` gives the columns of its slides."""
    return [
        CohortSlide(
            slide_id=f"{label}{patient}-{number}",
            path="x.svs",
            patient_id=f"{label}{patient}",
            label=label,
            cohort="main",
            **nuisance(label, patient),
        )
        for label in labels
        for patient in range(patients)
        for number in range(2)
    ]


def nuisances(cohort, numbers=None, **how):
    splits = split_patients(labelled(cohort))
    evidence = {s.slide_id: SlideEvidence(numbers=numbers(s) if numbers else {}) for s in splits}
    return find_nuisances(splits, {s.slide_id: s for s in cohort}, evidence, **how)


def test_a_freezer_that_tells_the_label_is_called_out():
    cohort = make_cohort(
        lambda label, _: {"preservation": "frozen" if label == "normal" else "FFPE"}
    )
    (finding,) = nuisances(cohort).findings
    assert finding.blocking
    assert "preservation alone tells normal from the rest (AUROC 1.00" in finding.text
    assert "every normal slide is frozen, of the others none" in finding.text
    assert "a model can score 1.00 by recognising freezing" in finding.text


def test_a_scanner_that_nearly_tells_the_label_is_called_out():
    def mostly(label, patient):
        return {"scanner": "S1" if (label == "normal") == (patient > 0) else "S2"}

    (finding,) = nuisances(make_cohort(mostly)).findings
    assert finding.blocking
    assert "38 of 40 normal slides come from scanner 'S1', of the others 2 of 40" in finding.text
    assert "by recognising the scanner" in finding.text


@pytest.mark.parametrize("column", ["site", "scanner", "preservation"])
def test_a_balanced_nuisance_is_left_alone(column):
    rng = np.random.default_rng(4)
    values = {(label, p): str(rng.integers(3)) for label in ("normal", "tumour") for p in range(20)}
    found = nuisances(make_cohort(lambda label, p: {column: values[label, p]}))
    assert found.findings == ()
    (measured,) = found.measured
    assert measured.name == column
    assert measured.low < 0.5 < measured.high


def test_sites_of_one_patient_each_tell_nothing():
    """A nuisance must tell the label of patients it was not learned from."""
    assert nuisances(make_cohort(lambda label, p: {"site": f"{label}{p}"})).findings == ()


def test_weak_or_uncertain_evidence_does_not_block():
    def leaning(label, patient):
        return {"scanner": "A" if (label == "normal") == (patient % 5 > 0) else "B"}

    assert nuisances(make_cohort(leaning, patients=10)).passed
    certain = nuisances(make_cohort(lambda label, _: {"scanner": label}, patients=4))
    assert certain.passed
    assert "with 4 patients of normal it may be chance" in certain.findings[0].text


def test_unknown_and_constant_columns_are_no_nuisance():
    assert nuisances(make_cohort(lambda *_: {"site": "one"})) == Audit()
    assert nuisances(make_cohort(lambda *_: {})) == Audit()


def test_a_site_that_tells_the_label_does_not_block_where_sites_are_kept_whole():
    cohort = make_cohort(lambda label, p: {"site": f"{label}{p % 3}"})
    assert not nuisances(cohort).passed
    assert "--split site" in nuisances(cohort).findings[0].remedy
    kept = nuisances(cohort, whole_sites=True)
    assert kept.passed
    assert "the parts keep sites whole" in kept.findings[0].text


@pytest.mark.parametrize(
    ("name", "of_label", "words"),
    [
        ("native mpp", {"a": 0.25, "b": 0.5, "c": 0.25}, "b slides have a median native mpp of"),
        ("effective mpp", {"a": 0.5, "b": 0.5, "c": 0.502}, "c slides have a median effective mpp"),
        # A class between the others is told, too.
        ("focus", {"a": 3.0, "b": 5.0, "c": 7.0}, "by recognising how sharp a slide is"),
    ],
)
def test_a_measure_that_tells_the_label_is_called_out(name, of_label, words):
    rng = np.random.default_rng(1)

    def numbers(slide):
        return {name: (of_label[slide.label] + rng.normal(0, 1e-5),)}

    cohort = make_cohort(lambda *_: {}, labels=("a", "b", "c"))
    (finding,) = nuisances(cohort, numbers).findings
    assert finding.blocking
    assert words in finding.text


def test_a_stain_that_tells_the_label_is_called_out_and_noise_is_not():
    rng = np.random.default_rng(2)

    def shifted(slide):
        return {"stain": (*(rng.normal(0, 0.02, 8) + 0.2 * (slide.label == "normal")),)}

    def alike(_slide):
        return {"stain": (*rng.normal(0, 0.02, 8),)}

    cohort = make_cohort(lambda *_: {})
    (finding,) = nuisances(cohort, shifted).findings
    assert finding.blocking
    assert "by recognising the staining" in finding.text
    assert nuisances(cohort, alike).findings == ()


def slide(slide_id, patient, split="train", label="a"):
    return SplitSlide(slide_id=slide_id, patient_id=patient, label=label, cohort="", split=split)


def test_one_file_under_two_names_is_found():
    slides = [slide("one", "p"), slide("two", "p"), slide("three", "q", "test")]

    def evidence(*identities):
        return {
            s.slide_id: SlideEvidence(identity=identity, numbers={})
            for s, identity in zip(slides, identities, strict=True)
        }

    bags = {s.slide_id: s.slide_id for s in slides}
    (twice,) = find_same_slides(slides, evidence("x", "x", "y"), bags).findings
    assert "slides one and two of patient p are the same file" in twice.text
    assert not twice.blocking
    (leak,) = find_same_slides(slides, evidence("x", "z", "x"), bags).findings
    assert leak.blocking
    assert "slides one and three of patients p and q" in leak.text
    assert "in test and train" in leak.text
    assert find_same_slides(slides, evidence(None, None, None), bags).findings == ()
    (features,) = find_same_slides(
        slides, evidence(None, None, None), bags | {"three": "one"}
    ).findings
    assert features.blocking
    assert "different files with the same features" in features.text
    # Found by its file, a slide is not reported again by its features.
    both = find_same_slides(slides, evidence("x", "z", "x"), bags | {"three": "one"})
    assert len(both.findings) == 1


def draw_slide(rng, side=500):
    """Irregular tissue on white, in colour."""
    field = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 14)
    fine = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 3)
    picture = np.full((side, side, 3), 245.0)
    tissue = field > np.quantile(field, 0.6)
    picture[tissue] = (200, 130, 170) + 200 * fine[tissue][:, None]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def spoil(picture, position, rng):
    """Turn or mirror, shrink, change the brightness, pack as a poor JPEG."""
    array = np.rot90(np.asarray(picture)[:, :: 1 if position < 4 else -1], position % 4)
    array = (array * rng.uniform(0.9, 1.05)).clip(0, 255).astype(np.uint8)
    scale = rng.uniform(0.4, 1)
    small = Image.fromarray(array).resize((round(500 * scale),) * 2, Image.Resampling.BILINEAR)
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=50)
    return Image.open(packed)


def test_turned_and_repacked_pictures_are_copies_and_others_are_not(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(16):
        picture = draw_slide(rng)
        for copy, seen in (("a", picture), ("b", spoil(picture, number % 8, rng))):
            paths.append(tmp_path / f"{number}{copy}.jpg")
            seen.save(paths[-1])
    pairs = find_copies(read_pictures(paths))
    assert pairs == [(2 * number, 2 * number + 1) for number in range(16)]


def test_near_copies_of_real_images_are_found_by_their_groups(near_copies):
    """Turned by any angle, mirrored, shifted, sheared; half of the originals set the thresholds."""
    paths, originals, pictures = near_copies
    groups = connected(find_copies(pictures))
    of = {index: number for number, members in enumerate(groups) for index in members}
    pairs = list(combinations(range(len(paths)), 2))
    together = {(i, j) for i, j in pairs if i in of and of.get(i) == of.get(j)}
    same = {(i, j) for i, j in pairs if originals[i] == originals[j]}
    assert len(same & together) >= 0.95 * len(same)
    assert not together - same


def test_a_copy_is_found_at_any_angle_cut_stained_and_packed(near_copies, tmp_path):
    """Each original at one of four angles; the others are there to be confused with."""
    paths, originals, pictures = near_copies
    firsts = [originals.index(name) for name in sorted(set(originals))[:20]]
    changed = []
    for number, index in enumerate(firsts):
        picture = cv2.imread(str(paths[index]))
        middle = (picture.shape[1] / 2, picture.shape[0] / 2)
        turn = cv2.getRotationMatrix2D(middle, (17, 45, 133, 270)[number % 4], 1.2)
        picture = cv2.warpAffine(picture[:, ::-1], turn, picture.shape[1::-1])[30:200, 20:190]
        density = -np.log((picture + 1.0) / 256) * [1.2, 0.8, 1.1]
        stained = (256 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)
        changed.append(tmp_path / f"{index}.jpg")
        cv2.imwrite(str(changed[-1]), stained, [cv2.IMWRITE_JPEG_QUALITY, 40])
    found = find_copies([*(pictures[index] for index in firsts), *read_pictures(changed)])
    count = len(firsts)
    assert set(found) <= {(k, k + count) for k in range(count)}
    assert len(found) >= 0.95 * count


def test_copies_are_named_between_patients_alone(tmp_path):
    rng = np.random.default_rng(0)
    picture = draw_slide(rng)
    slides = [slide("one", "p"), slide("copy", "q", "test"), slide("own", "p")]
    for name, seen in (("one", picture), ("copy", spoil(picture, 5, rng)), ("own", picture)):
        seen.save(tmp_path / f"{name}.jpg")
    evidence = {
        s.slide_id: SlideEvidence(thumbnail=tmp_path / f"{s.slide_id}.jpg", numbers={})
        for s in slides
    }
    audit = find_similar_slides(slides, evidence)
    (found,) = audit.findings
    assert found.slides == ("one", "copy", "own")
    assert found.blocking
    assert "slides one, copy and own of patients p and q are copies of one picture" in found.text
    assert audit.groups() == [("copy", "one", "own")]
    alone = {name: replace(evidence[name], what="image") for name in ("one", "copy")}
    images = [slide(name, name, part) for name, part in (("one", "train"), ("copy", "test"))]
    (found,) = find_similar_slides(images, alone).findings
    assert found.text.startswith("images one and copy are copies of one picture")
    (tmp_path / "own.jpg").write_bytes(b"no picture")
    with pytest.raises(StoreCorruptError, match=r"own.jpg: no readable picture"):
        find_similar_slides(slides, evidence)


@pytest.fixture(scope="module")
def near_copies(data_dir):
    """Paths of real images, the original that each is a copy of, and the pictures described."""
    folder = data_dir / "near_copies"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    with (folder / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    paths = [folder / row["class"] / row["file"] for row in rows]
    return paths, [f"{row['class']} {row['original']}" for row in rows], read_pictures(paths)


def write_bags(folder, bags):
    for slide_id, features in bags.items():
        with h5py.File(folder / f"{slide_id}.h5", "w") as file:
            file["features"] = features.astype(np.float32)
            file["coords"] = np.zeros((len(features), 2), dtype=np.int64)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_every_near_pair_of_tiles_is_found(tmp_path, scale):
    """Against all distances in full: whatever the encoder's scale, none is missed or made up."""
    rng = np.random.default_rng(5)
    slides = [slide(f"s{n}", f"p{n}", ["train", "val", "test"][n % 3]) for n in range(9)]
    bags = {s.slide_id: rng.normal(size=(rng.integers(20, 90), 48)) + 3 for s in slides}
    for n, other, strength in ((0, 1, 0), (0, 2, 0.05), (4, 8, 0.1), (3, 6, 0), (5, 7, 0.5)):
        count = 4
        copied = bags[f"s{n}"][:count] + strength * rng.normal(size=(count, 48))
        bags[f"s{other}"][-count:] = copied
    write_bags(tmp_path, {name: scale * bag for name, bag in bags.items()})
    found = find_similar_tiles(slides, FeatureFolder(tmp_path, slides))
    expected = {}
    usual = np.sqrt(2 * 48)  # of independent normal tiles
    for a in slides:
        for b in slides:
            if a.slide_id < b.slide_id and a.split != b.split:
                one, two = bags[a.slide_id], bags[b.slide_id]
                away = np.linalg.norm(one[:, None] - two[None], axis=2)
                near = (away <= 0.2 * usual).any(1).sum()
                if near:
                    expected[a.slide_id, b.slide_id] = int(near)
    assert expected == dict.fromkeys([("s0", "s1"), ("s0", "s2"), ("s1", "s2"), ("s4", "s8")], 4)
    assert {f.slides: int(f.text.split()[0]) for f in found.findings} == expected
    assert all(finding.blocking for finding in found.findings)


def test_a_single_similar_tile_is_a_remark(tmp_path):
    rng = np.random.default_rng(5)
    slides = [slide("s0", "p0"), slide("s1", "p1", "test")]
    bags = {s.slide_id: rng.normal(size=(50, 16)) for s in slides}
    bags["s1"][7] = bags["s0"][3]
    write_bags(tmp_path, bags)
    (finding,) = find_similar_tiles(slides, FeatureFolder(tmp_path, slides)).findings
    assert not finding.blocking
    assert "1 tile of slide s0 (train, patient p0) is nearly the same" in finding.text


def test_remarks_on_many_pairs_are_one(tmp_path):
    rng = np.random.default_rng(5)
    slides = [slide(f"s{n}", f"p{n}", ["train", "test"][n % 2]) for n in range(6)]
    bags = {s.slide_id: rng.normal(size=(150, 32)) for s in slides}
    for bag in bags.values():
        bag[3] = bags["s0"][3]
    write_bags(tmp_path, bags)
    (finding,) = find_similar_tiles(slides, FeatureFolder(tmp_path, slides)).findings
    assert not finding.blocking
    assert finding.text.startswith("9 pairs of slides of two parts share tiles")
    assert finding.slides == tuple(bags)


@pytest.mark.parametrize("copied", [0, 1])
def test_features_that_tell_no_tiles_apart_make_no_copies(tmp_path, copied):
    """As of random weights: two stains far apart, all tiles of one stain crowded together."""
    rng = np.random.default_rng(5)
    slides = [slide(f"s{n}", f"p{n}", ["train", "test"][n // 6]) for n in range(12)]
    bags = {
        s.slide_id: np.repeat([[5.0 * (n % 2)]], 60, 0) + 0.2 * rng.normal(size=(60, 24))
        for n, s in enumerate(slides)
    }
    if copied:
        bags["s11"][:20] = bags["s0"][:20].astype(np.float16)
    write_bags(tmp_path, bags)
    found = find_similar_tiles(slides, FeatureFolder(tmp_path, slides))
    assert [f.slides for f in found.findings if f.blocking] == [("s0", "s11")] * copied
    assert "hardly tell tiles apart" in found.findings[-1].text


def test_copied_slides_do_not_make_features_look_crowded(tmp_path):
    rng = np.random.default_rng(5)
    slides = [slide(f"s{n}", f"p{n}", ["train", "test"][n // 4]) for n in range(8)]
    bags = {f"s{n}": rng.normal(size=(60, 24)) for n in range(4)}
    bags |= {f"s{n + 4}": bags[f"s{n}"] + 0.1 * rng.normal(size=(60, 24)) for n in range(4)}
    write_bags(tmp_path, bags)
    found = find_similar_tiles(slides, FeatureFolder(tmp_path, slides)).findings
    assert [f.slides for f in found] == [(f"s{n}", f"s{n + 4}") for n in range(4)]
    assert all(f.blocking for f in found)


def test_a_patient_in_two_splits_is_found_in_the_table():
    plan = SplitSettings(external="tma")
    slides = [
        *(slide(f"s{n}", f"p{n}", ["train", "val", "test"][n % 3]) for n in range(6)),
        slide("again", "p0", "test"),
    ]
    (finding,) = audit_table(slides, plan).findings
    assert finding.blocking
    assert "patient p0 is in more than one split (test and train)" in finding.text
    assert set(finding.slides) == {"s0", "again"}
    # Drawn splits keep patients whole, whatever the column says.
    assert audit_table(slides, SplitSettings(split="random")).findings == ()
    outside = [*slides[:-1], slide("out", "p1", "external")]
    (finding,) = audit_table(outside, plan).findings
    assert not finding.acceptable
    assert "external and val" in finding.text


@pytest.mark.parametrize(
    ("patients", "folds", "words"),
    [
        (2, 0, "class 'b' has 2 patients, and a split into train, val, test takes at least 3"),
        (3, 4, "class 'b' has 3 patients, and 4 folds"),
        (3, 2, "takes at least 4"),
    ],
)
def test_too_few_patients_to_split(patients, folds, words):
    slides = [slide(f"a{n}", f"a{n}", "") for n in range(12)]
    slides += [slide(f"b{n}", f"b{n}", "", "b") for n in range(patients)]
    (finding,) = too_few_to_split(slides, folds)
    assert words in finding.text
    assert finding.blocking
    assert not finding.acceptable


def test_too_few_patients_to_test():
    parts = [slide(f"a{n}", f"a{n}", "test") for n in range(12)]
    parts += [slide(f"b{n}", f"b{n}", "test" if n < 3 else "train", "b") for n in range(12)]
    asked = {"classes": ("a", "b"), "folds": 0}
    (remark,) = too_few_to_test(parts, **asked, least=1)
    assert not remark.blocking
    assert "class 'b' has 3 patients in the test part: even if all are right" in remark.text
    assert "0.29" in remark.text  # 0.025 ** (1 / 3)
    (found,) = too_few_to_test(parts, **asked, least=5)
    assert found.blocking
    (none,) = too_few_to_test(parts[:12], **asked, least=1)
    assert none.blocking
    assert "nothing is known about it" in none.text
    assert list(too_few_to_test(parts, classes=("a", "b"), folds=3, least=1)) == []


def test_names_are_listed_shortly():
    assert named(["a"]) == "a"
    assert named(["a", "b", "c"]) == "a, b and c"
    assert named(list("abcdefg")) == "a, b, c, d, e and 2 more"
