"""Any project, any label: records of several programmes, classes by any fact, clinical columns."""

import io
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.cohort import CohortSlide, read_cohort
from wsi_pipeline.download import main
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.gdc import ManifestEntry, read_manifest, read_record
from wsi_pipeline.gdc.clinical import condition, parse_filter

QUICK = ("--first-wait-s=0.01", "--attempts=3", "--timeout-s=2")
Dict = dict[str, Any]


def sample(kind: str, name: str, *slides: Dict, **more: Any) -> Dict:
    """A sample with its slides, in one portion."""
    return {
        "submitter_id": name,
        "sample_type": kind,
        "portions": [{"submitter_id": f"{name}-01", "slides": list(slides)}],
    } | more


def hold(
    stand_in: Any, project: str, patient: str, slide: str, samples: list[Dict], **more: Any
) -> ManifestEntry:
    """Let the stand-in hold a slide whose record lists all samples of its case."""
    case = {
        "case_id": f"case of {patient}",
        "submitter_id": patient,
        "primary_site": more.pop("site", "Liver and intrahepatic bile ducts"),
        "project": {"project_id": project},
        "samples": samples,
    } | more.pop("case", {})
    entity = {"entity_type": "slide", "entity_submitter_id": slide, "case_id": case["case_id"]}
    entry: ManifestEntry = stand_in.add(
        100 + len(stand_in.files),
        more.pop("file_name", f"{slide}.svs"),
        cases=[case],
        associated_entities=[entity],
        data_format="SVS",
        experimental_strategy=more.pop("strategy", "Tissue Slide"),
        **more,
    )
    return entry


class Asked:
    """A query by command line, and what came of it."""

    def __init__(self, stand_in: Any, folder: Path) -> None:
        self._server, self._folder = stand_in.url, folder

    def status(self, *flags: str, toml: str | None = None) -> int:
        path = self._folder / "query.toml"
        if toml is not None:
            path.write_text(toml)
            flags = (*flags, f"--query={path}")
        files = (
            f"--cohort-out={self._folder / 'c.csv'}",
            f"--manifest-out={self._folder / 'm.txt'}",
        )
        return main([*flags, *files, f"--server={self._server}", *QUICK])

    def slides(self, *flags: str, toml: str | None = None) -> list[CohortSlide]:
        assert self.status(*flags, toml=toml) == 0
        return read_cohort(self._folder / "c.csv")

    def labels(self, toml: str) -> dict[str, str | None]:
        return {slide.slide_id: slide.label for slide in self.slides(toml=toml)}


@pytest.fixture
def asked(stand_in: Any, tmp_path: Path) -> Asked:
    return Asked(stand_in, tmp_path)


COLON = """
projects = ["TCGA-COAD"]
recipe = "all"
[[labels.classes]]
label = "mucinous"
project = "TCGA-COAD"
morphologies = ["8480/3"]
[[labels.classes]]
label = "adeno"
project = "TCGA-COAD"
morphologies = ["8140/3"]
"""


def colon(stand_in: Any, number: int, **diagnosis: Any) -> str:
    patient = f"TCGA-AA-{number:04d}"
    slide = {"submitter_id": f"{patient}-01A-01-TS1"}
    hold(
        stand_in,
        "TCGA-COAD",
        patient,
        slide["submitter_id"],
        [sample("Primary Tumor", f"{patient}-01A", slide)],
        case={"diagnoses": [diagnosis]},
        site="Colon",
    )
    return slide["submitter_id"]


def test_two_classes_of_one_project_are_both_labelled(
    stand_in: Any, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    mucinous = colon(stand_in, 1, morphology="8480/3")
    adeno = colon(stand_in, 2, morphology="8140/3")
    colon(stand_in, 3)
    colon(stand_in, 4, morphology="8490/3")
    stand_in.tell()
    assert asked.labels(COLON) == {mucinous: "mucinous", adeno: "adeno"}
    said = capsys.readouterr().out
    assert "left out: 1 slides, morphology not recorded" in said
    assert "left out: 1 slides, morphology 8490/3" in said


def test_a_slide_of_two_classes_is_refused_by_name(
    stand_in: Any, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    colon(stand_in, 1, morphology="8480/3", tumor_grade="G3")
    both = colon(stand_in, 2, morphology="8480/3", tumor_grade="G2")
    stand_in.tell()
    toml = COLON + '[[labels.classes]]\nlabel = "moderate"\nwhere = { grade = "G2" }\n'
    assert asked.status(toml=toml) == 2
    said = capsys.readouterr().err
    assert f"1 slides are of two classes: {both}.svs is mucinous and moderate" in said


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ('grade = "G2"', {1}),
        ('grade = ["g1", "G2"]', {1, 2}),
        ('grade = "!= G2"', {2}),
        ('age = ">= 60"', {1}),
        ('"cases.diagnoses.age_at_diagnosis" = "< 20000"', {2}),
        ('primary_diagnosis = "Adenocarcinoma, NOS"', {1}),
    ],
)
def test_a_class_by_any_clinical_fact(
    stand_in: Any, asked: Asked, where: str, taken: set[int]
) -> None:
    names = {
        1: colon(
            stand_in,
            1,
            tumor_grade="G2",
            age_at_diagnosis=65 * 365.25,
            primary_diagnosis="Adenocarcinoma, NOS",
        ),
        2: colon(stand_in, 2, tumor_grade="G1", age_at_diagnosis=50 * 365.25),
        3: colon(stand_in, 3, tumor_grade="Not Reported"),
    }
    stand_in.tell()
    toml = (
        'projects = ["TCGA-COAD"]\nrecipe = "all"\n[[labels.classes]]\nlabel = "yes"\n'
        f"where = {{ {where} }}\n"
    )
    assert asked.labels(toml) == {names[number]: "yes" for number in taken}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ('grad = "G2"', "there is no clinical column 'grad'; did you mean 'grade'?"),
        ('"cases.diagnoses.tumour_grade" = "G2"', "the GDC knows no field"),
        ("grade = []", "grade: say what it must be"),
    ],
)
def test_a_fact_that_does_not_exist_is_refused(
    stand_in: Any, asked: Asked, where: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    colon(stand_in, 1)
    stand_in.tell()
    toml = f'projects = ["TCGA-COAD"]\n[[labels.classes]]\nlabel = "yes"\nwhere = {{ {where} }}\n'
    assert asked.status(toml=toml) == 2
    assert said in capsys.readouterr().err


def test_names_of_other_programmes(stand_in: Any, asked: Asked) -> None:
    """The case, the sample and how it was kept are the record's word; the name is not asked."""
    slide = {"submitter_id": "C3N-00646-22"}
    ffpe = {"preservation_method": "FFPE"}
    hold(
        stand_in,
        "CPTAC-3",
        "C3N-00646",
        "C3N-00646-22",
        [sample("Primary Tumor", "a", slide, **ffpe)],
    )
    slide = {"submitter_id": "HCM-BROD-0124-C22-01A-S1-HE"}
    hold(
        stand_in,
        "HCMI-CMDC",
        "HCM-BROD-0124-C22",
        slide["submitter_id"],
        [
            {
                "submitter_id": "HCM-BROD-0124-C22-01A",
                "tissue_type": "Tumor",
                "tumor_descriptor": "Recurrence",
                "preservation_method": "Snap Frozen",
                "portions": [{"slides": [slide]}],
            }
        ],
        file_name=f"{slide['submitter_id']}.5F0D0D0E-AAAA-BBBB-CCCC-0123456789AB.svs",
    )
    stand_in.tell()
    found = asked.slides("--project=CPTAC-3", "--project=HCMI-CMDC")
    assert [(s.patient_id, s.cohort, s.site, s.preservation, s.sample_type) for s in found] == [
        ("C3N-00646", "cptac", None, "FFPE", "Primary Tumor"),
        ("HCM-BROD-0124-C22", "hcmi", "BROD", "frozen", "Recurrent Tumor"),
    ]
    assert {slide.label for slide in found} == {None}


def test_two_files_of_one_name_make_a_table_that_can_be_read(stand_in: Any, asked: Asked) -> None:
    for patient in ("A-1", "A-2"):
        hold(
            stand_in,
            "CPTAC-3",
            patient,
            "slide",
            [sample("Primary Tumor", "s", {"submitter_id": "slide"})],
        )
    stand_in.tell()
    found = asked.slides("--project=CPTAC-3")
    ids = [file["file_id"] for file in stand_in.files]  # whose beginnings are one, too
    assert {slide.slide_id for slide in found} == {f"slide-{one}" for one in ids}
    assert {slide.patient_id for slide in found} == {"A-1", "A-2"}


PATIENT = "TCGA-DD-AAAA"
TUMOUR, NORMAL = f"{PATIENT}-01A-01-TS1", f"{PATIENT}-11A-01-TS1"


@pytest.mark.parametrize("portions", [True, False], ids=["by its entity", "by its barcode"])
def test_a_record_that_lists_all_samples_of_a_case_keeps_its_tumour_slide(
    stand_in: Any, asked: Asked, portions: bool
) -> None:
    samples = [
        sample("Solid Tissue Normal", f"{PATIENT}-11A", {"submitter_id": NORMAL}),
        sample("Primary Tumor", f"{PATIENT}-01A", {"submitter_id": TUMOUR}),
        sample("Blood Derived Normal", f"{PATIENT}-10A"),
    ]
    if not portions:
        samples = [{k: v for k, v in one.items() if k != "portions"} for one in samples]
    for slide in (TUMOUR, NORMAL):
        hold(stand_in, "TCGA-LIHC", PATIENT, slide, samples)
    stand_in.tell()
    toml = 'projects = ["TCGA-LIHC"]\n[[labels.classes]]\nlabel = "hcc"\nproject = "TCGA-LIHC"\n'
    assert asked.labels(toml) == {TUMOUR: "hcc", NORMAL: "normal"}


def test_a_slide_whose_sample_cannot_be_told_is_left_out(
    stand_in: Any, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tumour and a normal sample, and nothing that says which of them the slide is of."""
    samples = [sample("Solid Tissue Normal", "n"), sample("Primary Tumor", "t")]
    hold(stand_in, "CPTAC-3", "C3L-1", "C3L-1-21", samples)
    hold(stand_in, "CPTAC-3", "C3L-2", "C3L-2-21", [sample("Primary Tumor", "t")] * 2)
    stand_in.tell()
    toml = 'projects = ["CPTAC-3"]\nrecipe = "all"\n[[labels.classes]]\nlabel = "tumour"\n'
    assert asked.labels(toml) == {"C3L-2-21": "tumour"}
    assert "left out: 1 slides, the record does not say of which sample" in capsys.readouterr().out


def test_a_case_is_told_by_the_slides_entity() -> None:
    cases = [{"case_id": name, "submitter_id": name.upper()} for name in ("a", "b")]
    entity = {"entity_type": "slide", "case_id": "b"}
    hit = {"file_name": "x.svs", "cases": cases, "associated_entities": [entity]}
    assert read_record(hit).patient_id == "B"
    assert read_record({"file_name": "A-1.svs", "cases": cases}).patient_id == "A"
    assert read_record({"file_name": "x.svs", "cases": cases}).trouble == (
        "the record names several cases"
    )


@pytest.mark.parametrize("word", ["liver", "Liver and intrahepatic bile ducts", "BILE"])
def test_slides_of_an_organ_whatever_the_project(stand_in: Any, asked: Asked, word: str) -> None:
    liver = hold(stand_in, "TCGA-LIHC", PATIENT, TUMOUR, [sample("Primary Tumor", "t")])
    colon(stand_in, 1)
    stand_in.tell()
    (slide,) = asked.slides(f"--primary-site={word}")
    assert (slide.slide_id, slide.label) == (Path(liver.filename).stem, None)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--project=TCGA-COADD", "there is no project 'TCGA-COADD'; did you mean 'TCGA-COAD'?"),
        ("--primary-site=kolon", "there is no primary site 'kolon'; did you mean 'Colon'?"),
        ("--columns=stage", "give a manifest or --query"),
        ("--recipe=frozen", "did you mean 'frozen-only'?"),
    ],
)
def test_a_question_for_what_is_not_there(
    stand_in: Any, asked: Asked, flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    colon(stand_in, 1)
    stand_in.tell()
    assert asked.status(flag) == 2
    assert said in capsys.readouterr().err


def documented(stand_in: Any) -> None:
    """Three slides of one organ: with everything recorded, flagged, and with nothing recorded."""
    slide = {
        "submitter_id": TUMOUR,
        "section_location": "TOP",
        "percent_tumor_nuclei": 75.0,
        "percent_necrosis": 5,
        "percent_lymphocyte_infiltration": None,
    }
    other = {"submitter_id": NORMAL, "percent_tumor_nuclei": 0}
    diagnosis = {
        "ajcc_pathologic_stage": "Stage II",
        "tumor_grade": "G2",
        "age_at_diagnosis": 22000,
        "days_to_last_follow_up": 400,
        "primary_diagnosis": "Hepatocellular carcinoma, NOS",
    }
    person = {"sex_at_birth": "female", "vital_status": "Dead", "days_to_death": 512}
    hold(
        stand_in,
        "TCGA-LIHC",
        PATIENT,
        TUMOUR,
        [
            sample("Primary Tumor", f"{PATIENT}-01A", slide),
            sample("Solid Tissue Normal", f"{PATIENT}-11A", other),
        ],
        case={"diagnoses": [diagnosis], "demographic": person},
    )
    flagged = {"submitter_id": "TCGA-DD-BBBB-01A-01-TS1", "percent_tumor_nuclei": 30}
    note = {"category": "Item flagged DNU"}
    hold(
        stand_in,
        "TCGA-LIHC",
        "TCGA-DD-BBBB",
        flagged["submitter_id"],
        [sample("Primary Tumor", "TCGA-DD-BBBB-01A", flagged, annotations=[note])],
    )
    hold(stand_in, "TCGA-LIHC", "TCGA-DD-CCCC", "TCGA-DD-CCCC-01A-01-TS1", [])
    stand_in.tell()


COLUMNS = (
    "stage,grade,age,sex,vital_status,days_to_death,days_to_last_follow_up,percent_tumor_nuclei,"
    "percent_necrosis,percent_lymphocytes,section_location"
)


def test_clinical_columns_are_the_slides_own(
    stand_in: Any, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    documented(stand_in)
    found = asked.slides("--project=TCGA-LIHC", f"--columns={COLUMNS}")
    whole, flagged, silent = found
    assert [getattr(whole, name) for name in COLUMNS.split(",")] == [
        *("Stage II", "G2", "60", "female", "Dead", "512", "400", "75.0", "5", None, "TOP"),
    ]
    assert (flagged.percent_tumor_nuclei, flagged.warnings) == ("30", "Item flagged DNU")
    assert {getattr(silent, name) for name in COLUMNS.split(",")} == {None}
    said = capsys.readouterr().out
    assert "the GDC warns of 1 slides: Item flagged DNU" in said
    assert "unrecognized" not in said, "the older name of a field that is asked for by both"


@pytest.mark.parametrize(
    ("flag", "taken", "said"),
    [
        ("percent_tumor_nuclei>=60", [TUMOUR], "filter percent_tumor_nuclei >= 60: not recorded"),
        ("percent_tumor_nuclei<60", ["TCGA-DD-BBBB-01A-01-TS1"], "percent_tumor_nuclei < 60"),
        (
            "sex=female|male",
            [TUMOUR],
            "left out: 2 slides, filter sex female or male: not recorded",
        ),
        ("stage!=Stage I", [TUMOUR], "filter stage not Stage I: not recorded"),
        ("cases.diagnoses.tumor_grade=G2", [TUMOUR], "not recorded"),
    ],
)
def test_slides_by_what_is_recorded(
    stand_in: Any,
    asked: Asked,
    flag: str,
    taken: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    documented(stand_in)
    found = asked.slides("--project=TCGA-LIHC", f"--filters={flag}")
    assert [slide.slide_id for slide in found] == taken
    assert said in capsys.readouterr().out


def test_slides_that_the_gdc_warns_of_can_be_left_out(stand_in: Any, asked: Asked) -> None:
    documented(stand_in)
    toml = 'projects = ["TCGA-LIHC"]\nexclude_warnings = ["Item flagged DNU"]\ncolumns = ["age"]\n'
    found = asked.slides("--columns=sex", "--filters=sex=female", toml=toml)
    assert [(slide.slide_id, slide.age, slide.sex) for slide in found] == [(TUMOUR, "60", "female")]
    assert len(asked.slides(toml=toml)) == 2


@pytest.mark.parametrize("text", ["", "grade", "grade>>2", "age>=old", "nothing=1", "=1"])
def test_a_filter_that_says_nothing(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_filter(text)


def test_conditions_in_words() -> None:
    assert str(condition("age", ">= 60")) == "age >= 60"
    assert str(condition("sex", ["female", "male"])) == "sex female or male"
    assert str(condition("sex", "!= male")) == "sex not male"


class TestWhatIsWanted:
    """Manifests as gdc-client takes them: several, on the standard input, ids alone."""

    def command(self, stand_in: Any, tmp_path: Path, *wanted: str) -> list[str]:
        return [*wanted, f"--out={tmp_path / 'slides'}", f"--server={stand_in.url}/v0", *QUICK]

    def names(self, tmp_path: Path) -> set[str]:
        return {path.name for path in (tmp_path / "slides").rglob("*.svs")}

    def test_ids_on_the_command_line(self, stand_in: Any, tmp_path: Path) -> None:
        one, other = stand_in.add(1000), stand_in.add(2000)
        stand_in.tell()
        assert main(self.command(stand_in, tmp_path, one.id.upper(), other.id)) == 0
        assert self.names(tmp_path) == {one.filename, other.filename}
        assert len(stand_in.log("/v0/data")) == 2

    def test_an_id_that_the_gdc_does_not_have(
        self, stand_in: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stand_in.tell()
        lost = "33333333-3333-4333-8333-333333333333"
        assert main(self.command(stand_in, tmp_path, lost)) == 2
        assert f"the GDC has no file {lost}" in capsys.readouterr().err

    @pytest.mark.parametrize("header", ["id\n", "file_id\n\n", ""])
    def test_a_list_of_ids_alone(self, stand_in: Any, tmp_path: Path, header: str) -> None:
        one, other = stand_in.add(1000), stand_in.add(2000)
        stand_in.tell()
        path = tmp_path / "ids.txt"
        path.write_text(f"{header}{one.id}\n\n{other.id.upper()}\r\n{one.id}\n")
        assert main(self.command(stand_in, tmp_path, str(path))) == 0
        assert self.names(tmp_path) == {one.filename, other.filename}

    def test_a_list_of_ids_with_something_else_in_it(
        self, stand_in: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "ids.txt"
        path.write_text("id\n33333333-3333-4333-8333-333333333333\nslide.svs\n")
        stand_in.tell()
        assert main(self.command(stand_in, tmp_path, str(path))) == 2
        assert f"{path}: line 3: 'slide.svs' is not a UUID" in capsys.readouterr().err

    def test_several_manifests_and_the_standard_input(
        self, stand_in: Any, manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, both, last = (stand_in.add(1000 + n) for n in range(3))
        stand_in.tell()
        text = manifest([both, last]).read_bytes()
        piped = io.TextIOWrapper(io.BytesIO(text))
        monkeypatch.setattr("sys.stdin", piped)
        path = manifest([first, both])
        assert main(self.command(stand_in, tmp_path, str(path), "-")) == 0
        assert self.names(tmp_path) == {entry.filename for entry in (first, both, last)}

    def test_manifests_that_contradict_each_other(
        self, stand_in: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        entry = stand_in.add(1000)
        stand_in.tell()
        for name, size in (("a.txt", 1000), ("b.txt", 1001)):
            row = f"{entry.id}\t{entry.filename}\t{entry.md5}\t{size}\n"
            (tmp_path / name).write_text("id\tfilename\tmd5\tsize\n" + row)
        wanted = (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
        assert main(self.command(stand_in, tmp_path, *wanted)) == 2
        assert f"b.txt: line 2: id {entry.id} stands in {wanted[0]}, line 2" in (
            capsys.readouterr().err
        )

    def test_what_comes_of_ids_can_be_written_as_a_manifest(
        self, stand_in: Any, tmp_path: Path
    ) -> None:
        entry = stand_in.add(1000)
        stand_in.tell()
        path = tmp_path / "whole.txt"
        command = [entry.id, f"--manifest-out={path}", f"--server={stand_in.url}", *QUICK]
        assert main(command) == 0
        assert read_manifest(path).entries == (entry,)
