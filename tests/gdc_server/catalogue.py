"""What the stand-in holds, and how ``/files`` answers about it.

A file is a dict with the GDC's own keys; those that begin with ``_`` are the stand-in's:
``_content`` is the path of its bytes.
"""

from collections.abc import Iterator
from typing import Any

KNOWN_FIELDS = {
    "id",
    "file_id",
    "file_name",
    "md5sum",
    "file_size",
    "state",
    "access",
    "acl",
    "type",
    "submitter_id",
    "data_format",
    "data_type",
    "data_category",
    "experimental_strategy",
    "created_datetime",
    "updated_datetime",
    "version",
    "data_release",
    "cases.case_id",
    "cases.submitter_id",
    "cases.disease_type",
    "cases.project.project_id",
    "cases.samples.sample_type",
    "cases.samples.tissue_type",
    "cases.samples.preservation_method",
    "cases.samples.submitter_id",
    "cases.diagnoses.primary_diagnosis",
    "cases.diagnoses.morphology",
    "cases.diagnoses.diagnosis_is_primary_disease",
}
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
