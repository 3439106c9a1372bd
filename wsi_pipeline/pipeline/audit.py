"""Audit a run folder: would a model trained on it survive a reviewer?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wsi_pipeline.atomic import write_json
from wsi_pipeline.cohort import doubtful_labels, read_cohort
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event, Note, Planned, StageStarted, Written
from wsi_pipeline.pipeline.train_config import SplitConfig, split_plan
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from wsi_pipeline.learn import Audit, Study


class AuditConfig(SplitConfig):
    """Look for leaks, nuisances that tell the label, and classes too small for what is asked."""


StudyT = TypeVar("StudyT")


@dataclass(frozen=True, kw_only=True)
class Audited(Generic[StudyT]):
    """What the audit found; the ``study`` is None where nothing can be split."""

    audit: "Audit"
    study: StudyT | None

    def permitted(self, reason: str | None) -> StudyT:
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


def run(config: AuditConfig) -> Iterator[Event]:
    """Audit; write ``<run>/audit.json``.

    Raises:
        CohortError: The run folder's cohort table is unusable.
        LearnError: A finding must be put right before training, or the slides cannot be split.
        StoreError: There are no features of this encoder, or a store is unreadable.
    """
    from wsi_pipeline.features import find_features

    stores = find_features(RunFolder(config.run).features, config.encoder)
    yield StageStarted(stage="audit", total=1, unit="audits")
    yield from doubts_of(config)
    audited = audit_run(config, stores)
    yield from notes_of(audited)
    if config.dry_run:
        if audited.study is not None:
            yield from (Planned(row=row) for row in audited.study.inventory())
        return
    path = write_audit(config, audited, stores.name)
    if not audited.audit.passed:
        raise LearnError(
            f"{len(audited.audit.blocking)} findings must be put right before training, or "
            f"accepted with --accept-risk; they stand in {path}"
        )
    yield Note(text="the audit found nothing that must be put right")
    yield Written(path=str(path), what="audit")


def audit_run(config: SplitConfig, stores: Path) -> "Audited[Study]":
    """Audit the cohort table, split it, audit the study."""
    from wsi_pipeline.learn import (
        Subject,
        audit_study,
        audit_table,
        external_ids,
        gather,
        identify,
        labelled,
    )
    from wsi_pipeline.learn import prepare_study as prepare

    cohort = read_cohort(RunFolder(config.run).cohort)
    plan = split_plan(config)
    audit = audit_table(labelled(cohort), plan)
    if any(not finding.acceptable for finding in audit.blocking):
        return Audited(audit=audit, study=None)
    study = prepare(cohort, stores, replace(plan, allow_overlap=not audit.passed))
    evidence = gather(config.run, stores, [slide.slide_id for slide in study.splits])
    evidence |= identify(config.run, external_ids(cohort, config.external))
    least = config.min_test_patients
    audit += audit_study(Subject.of(study), cohort, evidence, least_tested=least)
    return Audited(audit=audit, study=study)


def notes_of(audited: "Audited[Study]") -> Iterator[Note]:
    """Say what was left out and what was found."""
    if audited.study is not None:
        yield from (Note(text=text) for text in audited.study.notes)
    yield from findings_of(audited.audit)


def doubts_of(config: SplitConfig) -> Iterator[Note]:
    """Say which labels of the run's table may be another with a letter wrong."""
    yield from (Note(text=text) for text in doubtful_labels(rows_of(RunFolder(config.run))))


def findings_of(audit: "Audit") -> Iterator[Note]:
    """Say what was found."""
    for finding in audit.findings:
        weight = "must be put right" if finding.blocking else "remark"
        yield Note(text=f"audit, {weight}: {finding.sentence()}")


def write_audit(
    config: SplitConfig, audited: "Audited[Study]", encoder: str, accepted: str | None = None
) -> Path:
    """Write ``<run>/audit.json`` and return its path."""
    path = RunFolder(config.run).audit
    write_json(path, audited.audit.to_json(accepted, **about(config, audited, encoder)))
    return path


def about(config: SplitConfig, audited: "Audited[Study]", encoder: str) -> dict[str, object]:
    """Return what was audited: the settings of the split and the digests of what was looked at."""
    names = SplitConfig.model_fields.keys() & config.identity().keys()
    study = audited.study
    digests = {} if study is None else study.digests
    return {
        "settings": {name: config.identity()[name] for name in sorted(names)},
        "encoder": encoder,
        "digests": {name: digests[name] for name in ("splits", "features") if name in digests},
    }


def risks_of(found: Mapping[str, Any]) -> list[str]:
    """Return the findings of an ``audit.json`` as remarks, with the reason that accepted them."""
    accepted = found["accepted_risk"]
    reason = f" (accepted: {accepted})" if accepted else ""
    return [
        f"audit: {finding['text']}{reason if finding['blocking'] else ''}"
        for finding in found["findings"]
    ]
