"""Audit a run folder: would a model trained on it survive a reviewer?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from wsi_pipeline import learn
from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cohort import CohortSlide, doubtful_labels, read_cohort
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event, Note, Planned, StageStarted, Written
from wsi_pipeline.features import find_features
from wsi_pipeline.learn import SplitSettings, TaskSettings
from wsi_pipeline.reporting import write_groups_page
from wsi_pipeline.run_cohort import hand_edits, unmatched_features
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.verbs.models import AuditConfig

SourceT = TypeVar("SourceT", bound=learn.Source)


@dataclass(frozen=True, kw_only=True)
class Audited(Generic[SourceT]):
    """What the audit found; the ``study`` is None where nothing can be split."""

    audit: learn.Audit
    study: learn.Study[SourceT] | None

    @classmethod
    def of_table(
        cls, material: learn.Material[SourceT], asked: SplitSettings
    ) -> "Audited[SourceT]":
        """Audit the cohort table and split it; features or tiles are not compared yet.

        Raises:
            LearnError: The slides cannot be split, or do not belong together.
            StoreError: A store is unreadable.
        """
        if asked.groups is not None:
            joined = learn.join_patients(material.cohort, learn.read_groups(asked.groups))
            material = replace(material, cohort=tuple(joined))
        audit = learn.audit_cohort(material, asked)
        if any(not finding.acceptable for finding in audit.blocking):
            return cls(audit=audit, study=None)
        study = learn.prepare_study(material, asked, allow_overlap=not audit.passed)
        return cls(audit=audit, study=study)

    def with_tiles(self, asked: SplitSettings) -> "Audited[SourceT]":
        """Add what features or tiles tell.

        Raises:
            LearnError: A picture is unreadable.
            StoreError: A store is unreadable.
        """
        if self.study is None:
            return self
        return replace(self, audit=self.audit + self.study.audit(asked.min_test_patients))

    def permitted(self, reason: str | None) -> learn.Study[SourceT]:
        """Return the study, if it may be trained on.

        Args:
            reason: Why what can be accepted is; None accepts nothing.

        Raises:
            LearnError: Something must be put right, and no reason is given to accept it.
        """
        blocking = self.audit.unaccepted(reason)
        if not blocking and self.study is not None:
            return self.study
        offer = ", or pass --accept-risk REASON" if all(f.acceptable for f in blocking) else ""
        found = ". ".join(finding.sentence() for finding in blocking)
        raise LearnError(
            f"the audit found what would make the figures worthless: {found}. Put it right{offer}"
        )

    def before(self) -> Iterator[Note]:
        """Say what is about to be compared, which takes a while where there is much."""
        if self.study is not None:
            slides = len(self.study.splits)
            yield Note(text=f"the audit compares {slides} slides, their pictures and their tiles")

    def notes(self) -> Iterator[Note]:
        """Say what was left out and what was found."""
        if self.study is not None:
            yield from (Note(text=text) for text in self.study.notes)
        for finding in self.audit.findings:
            weight = "must be put right" if finding.blocking else "remark"
            yield Note(text=f"audit, {weight}: {finding.sentence()}")

    def write_groups(self, folder: RunFolder) -> Iterator[Event]:
        """Write which slides belong together, and their pictures side by side, if any do."""
        groups = self.audit.groups()
        if not groups:
            return
        write_text(folder.groups, learn.groups_csv(groups))
        yield Written(path=str(folder.groups), what="groups of copies, for --groups")
        if self.audit.pictures:
            write_groups_page(folder.copies, groups, self.audit.pictures)
            yield Written(path=str(folder.copies), what="copies side by side")

    def to_json(self, settings: Mapping[str, Any], accepted: str | None = None) -> dict[str, Any]:
        """Return ``audit.json``: what was found, and in what.

        Args:
            settings: What was asked; those of the split and of what was looked at are kept.
            accepted: Why what was found is accepted.
        """
        kept = {
            *SplitSettings.model_fields,
            *TaskSettings.model_fields,
            "encoder",
            "patient_pattern",
        }
        digests = {} if self.study is None else self.study.digests
        return self.audit.to_json(
            accepted,
            settings={name: settings[name] for name in sorted(kept & settings.keys())},
            digests={name: value for name, value in digests.items() if isinstance(value, str)},
        )


def run(config: AuditConfig) -> Iterator[Event]:
    """Audit; write ``<run>/audit.json``.

    Raises:
        CohortError: The run folder's cohort table is unusable.
        LearnError: A finding must be put right before training, or the slides cannot be split.
        StoreError: There are no features of this encoder, or a store is unreadable.
    """
    folder = RunFolder(config.run)
    stores = find_features(folder.features, config.encoder)
    yield StageStarted(stage="audit", total=1, unit="audits")
    cohort = read_cohort(folder.cohort)
    material = learn.from_features(cohort, config.run, stores, config.external)
    material = learn.pose(material, config)
    material = replace(material, notes=(*material.notes, *hand_edits(folder)))
    yield from unmatched_features(folder, stores)
    yield from doubts_of(material.cohort)
    audited = Audited.of_table(material, config)
    yield from audited.before()
    audited = audited.with_tiles(config)
    yield from audited.notes()
    if config.dry_run:
        if audited.study is not None:
            yield from (Planned(row=row) for row in audited.study.inventory())
        return
    write_json(folder.audit, audited.to_json(config.identity() | {"encoder": stores.name}))
    yield from audited.write_groups(folder)
    if not audited.audit.passed:
        raise LearnError(
            f"{len(audited.audit.blocking)} findings must be put right before training, or "
            f"accepted with --accept-risk; they stand in {folder.audit}"
        )
    yield Note(text="the audit found nothing that must be put right")
    yield Written(path=str(folder.audit), what="audit")


def doubts_of(cohort: Sequence[CohortSlide]) -> Iterator[Note]:
    """Say which labels may be another with a letter wrong."""
    yield from (Note(text=text) for text in doubtful_labels(cohort))


def risks_of(found: Mapping[str, Any]) -> list[str]:
    """Return the findings of an ``audit.json`` as remarks, with the reason that accepted them."""
    accepted = found["accepted_risk"]
    reason = f" (accepted: {accepted})" if accepted else ""
    return [
        f"audit: {finding['text']}{reason if finding['blocking'] else ''}"
        for finding in found["findings"]
    ]
