"""What `finetune` learns from: found, audited, split by patient."""

from dataclasses import replace
from typing import TYPE_CHECKING

from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.pipeline.audit import Audited
from wsi_pipeline.pipeline.finetune_config import FinetuneConfig, split_plan
from wsi_pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from wsi_pipeline.learn.finetune.study import Material, TileStudy


def split_study(config: FinetuneConfig) -> "Audited[TileStudy]":
    """Audit the cohort table and split it; tiles are not looked at yet.

    Raises:
        ConfigError: Images and tile stores are mixed up.
        CohortError: The run folder's cohort table is unusable.
        LearnError: The slides cannot be split.
    """
    from wsi_pipeline.learn import audit_table, labelled
    from wsi_pipeline.learn.finetune.study import split_tiles

    material = _material(config)
    plan = split_plan(config)
    audit = audit_table(labelled(material.cohort), plan)
    if any(not finding.acceptable for finding in audit.blocking):
        return Audited(audit=audit, study=None)
    study = split_tiles(material, replace(plan, allow_overlap=not audit.passed))
    return Audited(audit=audit, study=study)


def audit_study(config: FinetuneConfig, found: "Audited[TileStudy]") -> "Audited[TileStudy]":
    """Add what the tiles tell.

    Raises:
        LearnError: A picture is unreadable.
        StoreError: A store is unreadable.
    """
    if found.study is None:
        return found
    return replace(found, audit=found.audit + found.study.audit(config.min_test_patients))


def _material(config: FinetuneConfig) -> "Material":
    from wsi_pipeline.learn.finetune.study import ImageFolders, from_images, from_stores

    if config.images is None:
        if config.external_images or config.patient_pattern:
            raise ConfigError("--external-images and --patient-pattern go with --images")
        cohort = read_cohort(RunFolder(config.run).cohort)
        return from_stores(cohort, config.run, config.external)
    for folder in (config.images, config.external_images):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder of images")
    if config.external is not None:
        raise ConfigError("--external names a cohort; with --images use --external-images")
    return from_images(
        ImageFolders(
            internal=config.images,
            external=config.external_images,
            pattern=config.patient_pattern,
            side=config.input_px,
        )
    )
