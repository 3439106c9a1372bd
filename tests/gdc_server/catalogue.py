"""What the stand-in holds, and how ``/files`` answers about it.

A file is a dict with the GDC's own keys; those that begin with ``_`` are the stand-in's:
``_content`` is the path of its bytes.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

FILE = (
    *("id", "file_id", "file_name", "md5sum", "file_size", "state", "access", "acl", "type"),
    *("submitter_id", "data_format", "data_type", "data_category", "experimental_strategy"),
    *("created_datetime", "updated_datetime", "version", "data_release"),
)
ENTITY = ("case_id", "entity_id", "entity_submitter_id", "entity_type")
NOTE = ("annotation_id", "category", "classification", "entity_id", "entity_type", "notes")
CASE = ("case_id", "submitter_id", "disease_type", "primary_site")
PERSON = ("sex_at_birth", "vital_status", "days_to_death", "age_at_index", "race")
DIAGNOSIS = (
    *("primary_diagnosis", "morphology", "diagnosis_is_primary_disease", "tumor_grade"),
    *("ajcc_pathologic_stage", "ajcc_clinical_stage", "age_at_diagnosis"),
    *("days_to_last_follow_up", "site_of_resection_or_biopsy"),
)
SAMPLE = (
    *("sample_id", "submitter_id", "sample_type", "tissue_type", "tumor_descriptor"),
    *("specimen_type", "preservation_method"),
)
SLIDE = (
    *("slide_id", "submitter_id", "section_location", "percent_tumor_nuclei"),
    *("percent_tumor_cells", "percent_normal_cells", "percent_stromal_cells"),
    *("percent_necrosis", "percent_lymphocyte_infiltration"),
)
OTHER = ("file_id", "file_name", "md5sum", "file_size", "state", "access")
GROUPS = {
    "": FILE,
    "associated_entities.": ENTITY,
    "annotations.": NOTE,
    "index_files.": OTHER,
    "metadata_files.": OTHER,
    "cases.": CASE,
    "cases.project.": ["project_id", "name"],
    "cases.tissue_source_site.": ["code", "name"],
    "cases.demographic.": PERSON,
    "cases.diagnoses.": DIAGNOSIS,
    "cases.annotations.": NOTE,
    "cases.samples.": SAMPLE,
    "cases.samples.annotations.": NOTE,
    "cases.samples.portions.": ["portion_id", "submitter_id", "is_ffpe"],
    "cases.samples.portions.annotations.": NOTE,
    "cases.samples.portions.slides.": SLIDE,
    "cases.samples.portions.slides.annotations.": NOTE,
}
KNOWN_FIELDS = {group + name for group, names in GROUPS.items() for name in names}
DEFAULT_FIELDS = sorted(name for name in KNOWN_FIELDS if "." not in name)


class BadRequestError(Exception):
    """The question cannot be answered; becomes HTTP 400."""


class Catalogue:
    def __init__(
        self, files: list[dict[str, Any]], versions: list[dict[str, Any]] | None = None
    ) -> None:
        self.files = files
        self.by_id = {file["file_id"]: file for file in files}
        self._versions = {row["id"]: row for row in versions or []}

    def search(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer a ``/files`` question as the GDC does."""
        hits = [file for file in self.files if matches(file, question.get("filters"))]
        sort = str(question.get("sort") or "")
        if sort:
            name, _, order = sort.partition(":")
            hits.sort(key=lambda file: str(file.get(name, "")), reverse=order == "desc")
        size, start = int(question.get("size", 10)), int(question.get("from", 0))
        facets = [name for name in str(question.get("facets") or "").split(",") if name]
        page = hits[start : start + size]
        asked = [name for name in str(question.get("fields") or "").split(",") if name]
        unknown = [name for name in asked if name not in KNOWN_FIELDS]
        names = asked or DEFAULT_FIELDS
        return {
            "data": {
                "hits": [{**project(file, names), "id": file["file_id"]} for file in page],
                "pagination": {
                    "count": len(page),
                    "total": len(hits),
                    "size": size,
                    "from": start,
                    "sort": sort,
                    "page": start // size + 1 if size else 1,
                    "pages": -(-len(hits) // size) if size else len(hits),
                },
                **({"aggregations": aggregations(hits, facets)} if facets else {}),
            },
            "warnings": {"fields": f"unrecognized values: {unknown}"} if unknown else {},
        }

    def manifest(self, files: list[dict[str, Any]]) -> bytes:
        lines = ["id\tfilename\tmd5\tsize\tstate"]
        for file in files:
            values = (file["file_id"], file["file_name"], file["md5sum"], file["file_size"])
            lines.append("\t".join(map(str, (*values, file.get("state", "released")))))
        return ("\n".join(lines) + "\n").encode()

    def select(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        return [file for file in self.files if matches(file, question.get("filters"))]

    def annotations(self, files: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Return the annotations of all files, or of some."""
        held = self.files if files is None else files
        return [note for file in held for note in file.get("annotations", [])]

    def related(self, ids: list[str]) -> list[str]:
        """Return the ids of the index and metadata files that go with files."""
        files = [self.by_id[one] for one in ids if one in self.by_id]
        others = [
            o for f in files for key in ("index_files", "metadata_files") for o in f.get(key, [])
        ]
        return [other["file_id"] for other in others]

    def versions(self, ids: list[str]) -> list[dict[str, Any]] | None:
        """Return a row for each id, or None when one of them was never a file's."""
        rows = []
        for file_id in ids:
            if file_id in self._versions:
                rows.append(self._versions[file_id])
            elif file_id in self.by_id:
                rows.append(version_row(self.by_id[file_id]))
            else:
                return None
        return rows


def aggregations(files: list[dict[str, Any]], facets: list[str]) -> dict[str, Any]:
    """Count the files by each value of the fields;"""
    counts = {
        name: Counter(value for file in files for value in set(walk(file, name.split("."))))
        for name in facets
    }
    return {
        name: {"buckets": [{"doc_count": n, "key": key} for key, n in found.most_common()]}
        for name, found in counts.items()
    }


def version_row(file: dict[str, Any], latest: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what ``/files/versions`` says of ``file``, superseded by ``latest`` if given."""
    newest = latest or file
    return {
        "id": file["file_id"],
        "filename": file["file_name"],
        "version": "1",
        "md5": file["md5sum"],
        "size": file["file_size"],
        "state": "validated",
        "release": "12.0",
        "latest_id": newest["file_id"],
        "latest_filename": newest["file_name"],
        "latest_version": "2" if latest else "1",
        "latest_size": newest["file_size"],
        "latest_state": "validated",
        "latest_release": ["43.0"],
    }


def matches(file: dict[str, Any], filters: Any) -> bool:
    """Evaluate a GDC filter."""
    if not filters:
        return True
    try:
        operator, content = filters["op"], filters["content"]
        if operator in ("and", "or"):
            together = all if operator == "and" else any
            return together(matches(file, part) for part in content)
        name, wanted = content["field"], content["value"]
    except (KeyError, TypeError):
        raise BadRequestError("malformed filters") from None
    name = name.removeprefix("files.")
    if name not in KNOWN_FIELDS:
        raise BadRequestError(f"unrecognized field {name}")
    values = wanted if isinstance(wanted, list) else [wanted]
    found = set(walk(file, name.split(".")))
    if operator in ("in", "="):
        return bool(found & set(values))
    if operator in ("exclude", "!="):
        return not found & set(values)
    raise BadRequestError(f"unknown operator {operator}")


def walk(value: Any, path: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from walk(item, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from walk(value[path[0]], path[1:])


def project(file: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return only the fields named; a key that the file lacks stays missing."""
    answer: dict[str, Any] = {}
    for name in names:
        _copy(file, answer, name.split("."))
    return answer


def _copy(source: Any, target: Any, path: list[str]) -> None:
    key, *rest = path
    if key not in source:
        return
    value = source[key]
    if not rest:
        target[key] = value
    elif isinstance(value, list):
        items = target.setdefault(key, [{} for _ in value])
        for item, copy in zip(value, items, strict=True):
            _copy(item, copy, rest)
    else:
        _copy(value, target.setdefault(key, {}), rest)
