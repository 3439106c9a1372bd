"""A study file: a table a stage, or several of one stage for several tasks or cohorts.

``[train]`` is one; ``[[train]]``, given several times, is one after the other, each with a name of
its own. ``cohort = ["tcga.csv", "tma.csv"]`` cuts both tables into the run folder. A ``[predict]``
that names no model scores the slides with each that the study trains.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.registry import unknown
from wsi_pipeline.settings import StageConfig, load_toml
from wsi_pipeline.shard import Shard
from wsi_pipeline.verbs import Verb, stages
from wsi_pipeline.verbs.models import PredictConfig, TrainConfig, TrialConfig

SHARED: Final = "study"
COHORT: Final = "cohort"
Plan = Sequence[tuple[Verb, StageConfig]]


def read_study(path: Path) -> list[tuple[Verb, StageConfig]]:
    """Read and validate a study file.

    Returns:
        The stages it names, in the order they run, each with its config.

    Raises:
        ConfigError: It names no stage, an unknown one, or an unknown or impossible setting; or two
            trainings write one model.
    """
    tables, known = load_toml(path), stages()
    for name in tables:
        if name not in (SHARED, *known):
            raise ConfigError(f"{path}: [{name}]: {unknown('stage', name, (SHARED, *known))}")
    shared: dict[str, Any] = tables.get(SHARED, {})
    plan: list[tuple[Verb, StageConfig]] = []
    used: set[str] = set()
    for verb in (verb for name, verb in known.items() if name in tables):
        config_class = verb.config_class
        common = {key: shared[key] for key in shared if key in config_class.model_fields}
        used |= common.keys()
        for where, table in _tables(verb.name, tables[verb.name]):
            plan += [
                (verb, config_class.from_mapping(values, f"{path} {where}"))
                for values in _by_cohort(verb.name, common | table)
            ]
    if not plan:
        raise ConfigError(
            f"{path}: names no stage; give at least one of "
            f"{', '.join(f'[{name}]' for name in known)}"
        )
    if shared.keys() - used:
        raise ConfigError(
            f"{path} [{SHARED}]: no stage of this study knows "
            f"{', '.join(map(repr, sorted(shared.keys() - used)))}"
        )
    if any(getattr(config, "shard", Shard()).is_part for _, config in plan):
        raise ConfigError(
            f"{path}: 'shard' is for a call of one stage; a study's later stages need all slides"
        )
    if remote := [url for _, config in plan if (url := getattr(config, "remote", None))]:
        raise ConfigError(
            f"{path}: {remote[0]}: a study's run folder is on this machine; work on one in a "
            "bucket a stage at a time"
        )
    _check_names(plan, path)
    return list(_by_model(plan))


def _tables(name: str, given: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a stage is told, once or several times, and where that stands."""
    if not isinstance(given, list):
        yield f"[{name}]", given
        return
    for number, table in enumerate(given, 1):
        yield f"[[{name}]], the {number}. of {len(given)}", table


def _by_cohort(name: str, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the values once for each cohort table, where the stage reads slides."""
    cohorts = values.get(COHORT)
    if not isinstance(cohorts, list) or not cohorts:
        yield values
    elif name == "extract" and values.get("source", "tiles") == "tiles":
        yield {key: value for key, value in values.items() if key != COHORT}
    elif name in ("tile", "extract"):
        yield from (values | {COHORT: cohort} for cohort in cohorts)
    else:
        yield values


def _check_names(plan: Plan, path: Path) -> None:
    """Refuse two trainings that would write the same folder.

    Raises:
        ConfigError: There are.
    """
    seen: set[tuple[str, Path, str]] = set()
    for verb, config in plan:
        if not isinstance(config, TrialConfig):
            continue
        model = _model_of(config)
        if (verb.name, config.run, model) in seen:
            raise ConfigError(
                f"{path}: two [[{verb.name}]] write the model {model!r} of {config.run}; give each "
                "a name of its own"
            )
        seen.add((verb.name, config.run, model))


def _model_of(config: TrialConfig) -> str:
    return config.name or str(getattr(config, "encoder", ""))


def _by_model(plan: Plan) -> Iterator[tuple[Verb, StageConfig]]:
    """Yield the plan; a prediction that names no model is one for each that is trained."""
    trained: dict[Path, list[TrainConfig]] = {}
    for verb, config in plan:
        if isinstance(config, TrainConfig):
            trained.setdefault(config.run, []).append(config)
        if not isinstance(config, PredictConfig) or config.model is not None:
            yield verb, config
            continue
        fitting = [
            each for each in trained.get(config.run, ()) if config.encoder in (None, each.encoder)
        ]
        if len(fitting) < 2:
            yield verb, config
            continue
        for each in fitting:
            told: Mapping[str, Any] = (
                {"model": Path(each.name)} if each.name else {"encoder": each.encoder}
            )
            yield verb, config.model_copy(update=told)
