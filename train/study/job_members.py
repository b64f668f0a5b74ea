"""The other runs of a job that trains several: `together=[run_id,...]`, from the study's manifest.

Their experiment config is the manifest's; their runtime settings are the job's own, so that a
relaunch on another machine or with another tracker finds its runs.
"""

import difflib
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.config.compose import explain, to_config
from train.config.schema import SCIENCE, Config
from train.errors import ConfigError
from train.plan.grouping import refuse_strangers
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.run_folder.manifest import read_manifest
from train.run_folder.run_folder import RunFolder


def plan_together(first: PlannedRun) -> list[PlannedRun]:
    """Plan the runs that together= of `first` names, in its order.

    Raises:
        ConfigError: A name is not in the manifest, its config there makes another run_id, or the
            runs have too little in common for one job.
        DataError, StorageError: The manifest is damaged or cannot be read.
    """
    names = first.config.together
    if not names:
        return []
    study_folder = first.path.parent
    manifest = read_manifest(study_folder)
    entries = {entry["run_id"]: entry for entry in manifest["runs"]} if manifest else {}
    for name in names:
        if name not in entries:
            near = difflib.get_close_matches(name, entries, n=1)
            raise ConfigError(
                f"together: {name} is not in {study_folder / 'manifest.json'}"
                + (f"; did you mean {near[0]}?" if near else "; plan the study first")
            )
    others = [_planned(first.config, entries[name]) for name in names]
    refuse_strangers(first, others)
    return others


def point_to_log(folder: RunFolder, *, of: RunFolder) -> None:
    """Write to a run's job.log which file has its job's output.

    Not a link: it would hide the output of earlier jobs, and not every copy keeps links.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.log.open("a", encoding="utf-8") as file:
        file.write(f"trained along with {of.path.name}: see ../{of.path.name}/{of.log.name}\n")


def _planned(own: Config, entry: dict[str, Any]) -> PlannedRun:
    config = _with_science(own, entry.get("science"))
    plan = validate(config)
    if plan.run_id != entry["run_id"]:
        raise ConfigError(
            f"together: {entry['run_id']}: its science in the manifest makes {plan.run_id} in this "
            f"version; start the study by its own command"
        )
    overrides = [str(word) for word in entry.get("overrides") or []]
    return PlannedRun(overrides=overrides, config=config, plan=plan)


def _with_science(own: Config, science: object) -> Config:
    runtime = {
        name: value for name, value in vars(own).items() if name not in (*SCIENCE, "together")
    }
    if not isinstance(science, dict):
        raise ConfigError(f"together: the manifest's science is {str(science)[:40]!r}, no mapping")
    try:
        tree = OmegaConf.merge(OmegaConf.structured(Config(**runtime)), science)
        OmegaConf.set_struct(tree, True)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    unknown = set(science) - set(SCIENCE)
    if unknown:
        raise ConfigError(f"together: the manifest's science has {', '.join(sorted(unknown))}")
    return to_config(tree)  # type: ignore[arg-type]
