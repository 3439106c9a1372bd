"""The Imaging Data Commons: slides as DICOM series in public buckets, listed by a table on PyPI.

The package ``idc-index-data`` carries one table of all series. It says whose slide a series is, how
it was kept and of which tissue it is (in the series' description), how large it is, under which
licence it comes and what to cite. The bucket says which objects a series has, and their digests.

Source: Fedorov et al., RadioGraphics 2023, and the package's own description of its columns.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode
from xml.etree import ElementTree  # nosec B405 # judged where it parses

from wsi_pipeline.cohort import CohortSlide, safe_id
from wsi_pipeline.errors import DownloadError, UsageError
from wsi_pipeline.gdc import (
    RECIPES,
    GdcQuery,
    SlideRecord,
    caveats,
    judge,
    slide_row,
    summarise,
)
from wsi_pipeline.registry import unknown
from wsi_pipeline.remote import Client, RemoteFile

SERVER: Final = "https://s3.amazonaws.com"
TABLE: Final = "idc_index.parquet"
MIB: Final = 1 << 20
PART_MIB: Final = (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512)  # that uploaders use
MULTIPART: Final = re.compile(r"([0-9a-f]{32})-(\d+)")
MD5: Final = re.compile(r"[0-9a-f]{32}")
TISSUES: Final = {"TP": "Primary Tumor", "NT": "Solid Tissue Normal", "TR": "Recurrent Tumor",
                  "TM": "Metastatic"}  # fmt: skip
KEPT: Final = {"ffpe": "FFPE", "pe": "FFPE", "frozen": "Frozen", "fz": "Frozen"}
COLUMNS: Final = ("collection_id", "PatientID", "SeriesInstanceUID", "SeriesDescription",
                  "instanceCount", "series_size_MB", "license_short_name", "source_DOI",
                  "aws_bucket", "crdc_series_uuid", "PatientSex", "PatientAge")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Series:
    """One slide: a DICOM series of ``instances`` objects, ``megabytes`` (10^6) in all."""

    collection: str
    patient_id: str
    series_uid: str
    description: str
    instances: int
    megabytes: float
    licence: str
    doi: str
    bucket: str
    uuid: str
    sex: str | None = None
    age: str | None = None

    @property
    def project(self) -> str:
        """The collection as the GDC calls it: ``tcga_lihc`` is ``TCGA-LIHC``."""
        return self.collection.upper().replace("_", "-")

    @property
    def slide_id(self) -> str:
        """Patient, what the slide is, and the beginning of its UUID."""
        words = "-".join(self.description.split()) or "slide"
        return safe_id(f"{self.patient_id}-{words}-{self.uuid[:8]}")

    @property
    def record(self) -> SlideRecord:
        """What the table says of the slide, in the words of the GDC's records."""
        words = self.description.split()
        kept = next((KEPT[word.lower()] for word in words if word.lower() in KEPT), None)
        sample = {"sample_type": self._tissue(words), "preservation_method": kept}
        case = {
            "submitter_id": self.patient_id,
            "project": {"project_id": self.project},
            "demographic": {"sex_at_birth": {"F": "female", "M": "male"}.get(self.sex or "")},
            "samples": [sample],
        }
        if self.patient_id.startswith("TCGA-"):
            case["tissue_source_site"] = {"code": self.patient_id[5:7]}
        return SlideRecord(filename=self.slide_id, own={"cases": [case]}, name=None)

    def _tissue(self, words: Sequence[str]) -> str | None:
        if self.collection == "gtex":  # donors without the disease, every organ of them
            return TISSUES["NT"]
        named = next((TISSUES[word] for word in words if word in TISSUES), None)
        text = self.description.lower()
        return named or ("Primary Tumor" if "tumor" in text else
                         "Solid Tissue Normal" if "normal" in text else None)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class IdcObject(RemoteFile):
    """One object of a series. ``etag`` is its md5, or the digest of the digests of its parts."""

    bucket: str
    key: str
    etag: str

    noted: ClassVar[bool] = False
    of_folder: ClassVar[bool] = True

    @property
    def address(self) -> str:
        return f"{self.bucket}/{quote(self.key)}"

    @property
    def is_settled_by_repetition(self) -> bool:
        """Where it was uploaded in parts of an unusual length, nothing else can be compared."""
        return not self.md5

    def is_content(self, path: Path, md5: str) -> bool:
        """By the md5, else by the digests of the parts, of every length that uploaders use."""
        if path.stat().st_size != self.size:
            return False
        if self.md5:
            return md5 == self.md5
        return any(self._digest(path, size) == self.etag for size in self._part_sizes())

    def _part_sizes(self) -> list[int]:
        """Return the usual part lengths that come to the number of parts."""
        match = MULTIPART.fullmatch(self.etag)
        count = int(match[2]) if match else 0
        return [mib * MIB for mib in PART_MIB if -(-self.size // (mib * MIB)) == count]

    def _digest(self, path: Path, part_bytes: int) -> str:
        parts = hashlib.md5(usedforsecurity=False)
        count = 0
        with path.open("rb") as file:
            while block := file.read(part_bytes):
                parts.update(hashlib.md5(block, usedforsecurity=False).digest())
                count += 1
        return f"{parts.hexdigest()}-{count}"


@dataclass(frozen=True, kw_only=True)
class IdcSelection:
    """The series that may stand in one cohort, and why the others may not."""

    series: tuple[Series, ...]
    slides: tuple[CohortSlide, ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]


def index_path(given: Path | None = None) -> Path:
    """Return where the table is: where the user says, or in the installed package.

    Raises:
        UsageError: It is not there.
    """
    if given is not None:
        if not given.is_file():
            raise UsageError(f"{given}: there is no such table of the IDC")
        return given
    spec = find_spec("idc_index_data")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(folders)), TABLE) if folders else Path(TABLE)
    if not folders or not path.is_file():
        raise UsageError(
            "the IDC's table of series is not installed: pip install 'wsi-pipeline[idc]' "
            "(about 80 MB), or name a table by --idc-index"
        )
    return path


def read_index(path: Path, projects: Sequence[str], only: Sequence[str] = ()) -> list[Series]:
    """Read the slide series of some collections from the table.

    Args:
        path: The Parquet file.
        projects: Collections, as the IDC or the GDC calls them: ``tcga_lihc``, ``TCGA-LIHC``.
        only: Take these series alone, by SeriesInstanceUID or by the IDC's UUID of a series.

    Raises:
        UsageError: There is no such collection or series, or the table is none of the IDC's.
    """
    try:
        import duckdb
    except ImportError:
        raise UsageError(
            "the IDC's table is read by duckdb: pip install 'wsi-pipeline[idc]'"
        ) from None
    wanted = [name.lower().replace("-", "_") for name in projects]
    with duckdb.connect(config={"threads": 1}) as table:
        try:
            rows = table.execute(
                f"SELECT {', '.join(COLUMNS)} FROM read_parquet($path) "  # noqa: S608 # nosec B608 # our names
                "WHERE Modality = 'SM' AND list_contains($wanted, collection_id) "
                "ORDER BY PatientID, SeriesInstanceUID",
                {"path": str(path), "wanted": wanted},
            ).fetchall()
            if {row[0] for row in rows} < set(wanted):
                known = table.execute(
                    "SELECT DISTINCT collection_id FROM read_parquet($path) WHERE Modality = 'SM'",
                    {"path": str(path)},
                ).fetchall()
                lost = next(name for name in wanted if name not in {row[0] for row in rows})
                raise UsageError(unknown("collection", lost, sorted(name for (name,) in known)))
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            raise UsageError(f"{path}: not the IDC's table of series ({first})") from None
    found = [_series(row) for row in rows]
    if not only:
        return found
    by_id = {name: each for each in found for name in (each.series_uid, each.uuid)}
    strange = [name for name in only if name not in by_id]
    if strange:
        raise UsageError(
            f"{len(strange)} series are not among those of {', '.join(projects)}: the first is "
            f"{strange[0]}"
        )
    return list(dict.fromkeys(by_id[name] for name in only))


def _series(row: Sequence[Any]) -> Series:
    texts = [str(value or "") for value in row]
    return Series(
        collection=texts[0],
        patient_id=texts[1],
        series_uid=texts[2],
        description=texts[3],
        instances=int(row[4] or 0),
        megabytes=float(row[5] or 0),
        licence=texts[6],
        doi=texts[7],
        bucket=texts[8],
        uuid=texts[9],
        sex=row[10],
        age=row[11],
    )


def select_series(found: Sequence[Series], query: GdcQuery) -> IdcSelection:
    """Choose and label the series of one cohort, by the rules of a query of the GDC.

    The table knows no morphology: a class takes every tumour of its project.
    """
    slides: list[CohortSlide] = []
    series: list[Series] = []
    left_out: Counter[str] = Counter()
    bases: Counter[str] = Counter()
    for each in found:
        judged = judge(each.record, each.project, query)
        if judged.reason:
            left_out[judged.reason] += 1
            continue
        bases[judged.basis] += bool(judged.basis)
        series.append(each)
        slides.append(_row(each, judged.label, query))
    terms = dict.fromkeys((each.project, each.licence, each.doi) for each in series)
    notes = [f"label from {basis}: {count} slides" for basis, count in bases.items() if count]
    notes += [f"{name}: {licence}; cite https://doi.org/{doi}" for name, licence, doi in terms]
    recipe = RECIPES[query.chosen_recipe]
    return IdcSelection(
        series=tuple(series),
        slides=tuple(slides),
        left_out=dict(left_out),
        notes=(*summarise(slides), *notes, *caveats(recipe, slides)),
    )


def _row(series: Series, label: str | None, query: GdcQuery) -> CohortSlide:
    cohort = query.cohort or series.project.partition("-")[0].lower()
    row = slide_row(series.record, label, cohort, query.columns)
    return replace(row, slide_id=series.slide_id, path=series.slide_id, licence=series.licence,
                   source_doi=f"https://doi.org/{series.doi}" if series.doi else None)  # fmt: skip


def list_objects(client: Client, series: Series) -> list[IdcObject]:
    """Return the objects of a series as its bucket lists them, checked against the table.

    Raises:
        DownloadError: The bucket cannot answer, or has other objects than the table says.
    """
    found = list(_listing(client, series))
    if len(found) != series.instances:
        raise DownloadError(
            f"{series.slide_id}: the bucket has {len(found)} objects, the table says "
            f"{series.instances}; a newer idc-index-data may know the series' present version"
        )
    return found


def _listing(client: Client, series: Series) -> Iterator[IdcObject]:
    token: str | None = ""
    while token is not None:
        asked = {"list-type": "2", "prefix": f"{series.uuid}/"}
        asked |= {"continuation-token": token} if token else {}
        page = _xml(client.read(f"{series.bucket}?{urlencode(asked)}"))
        for item in page.iter("Contents"):
            key, etag = item.findtext("Key") or "", (item.findtext("ETag") or "").strip('"')
            name = key.rpartition("/")[2]
            size = item.findtext("Size") or ""
            if not name or not size.isdigit():
                continue
            yield IdcObject(
                id=series.slide_id,
                filename=safe_id(name),
                md5=etag if MD5.fullmatch(etag) else "",
                size=int(size),
                bucket=series.bucket,
                key=key,
                etag=etag,
            )
        token = page.findtext("NextContinuationToken") or None


def _xml(data: bytes) -> ElementTree.Element:
    """Parse a bucket's answer, without the namespace that every name would carry."""
    try:
        text = re.sub(r' xmlns="[^"]*"', "", data.decode(), count=1)
        # Expat expands no foreign entities, and stops at those that grow.
        return ElementTree.fromstring(text)  # noqa: S314 # nosec B314
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise DownloadError(f"the bucket's answer is no list of objects ({error})") from None
