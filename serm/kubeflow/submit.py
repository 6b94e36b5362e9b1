"""Upload a pipeline, and run it now or again and again."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from serm import settings as params
from serm.errors import UserError
from serm.kubeflow.package import Package, package

if TYPE_CHECKING:
    from serm.kubeflow.api import Pipelines

_CRON = re.compile(r"(?:[0-9*/,\-?LWa-zA-Z#]+\s+){5}[0-9*/,\-?LWa-zA-Z#]+")
_TYPES: dict[str, type[Any]] = {"STRING": str, "BOOLEAN": bool, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}


@dataclass(frozen=True)
class Plan:
    """What ``submit`` would do."""

    pipeline: str
    version: str
    run: str
    """The name of the run, or of the schedule."""
    host: str
    namespace: str
    experiment: str
    service_account: str
    cron: str | None
    """Six fields, the first the second, in UTC; None: once, now."""
    parameters: dict[str, Any]
    package: Package = field(repr=False)

    def told(self) -> dict[str, Any]:
        """Return it for people: settings, which are a whole file, as their length."""
        values = {key: value for key, value in asdict(self).items() if key != "package" and value not in (None, "")}
        shown = dict(self.parameters)
        if "settings" in shown:
            shown["settings"] = f"params.yaml, {len(shown['settings'])} characters"
        return values | {"parameters": shown}


def plan(
    pipeline: str, params_file: Path, given: Mapping[str, str], host: str | None = None, cron: str | None = None
) -> Plan:
    """Say what is to be submitted; nothing is sent.

    Args:
        pipeline: the name of a compiled pipeline.
        params_file: params.yaml; its text is the pipeline's parameter ``settings``.
        given: parameters, which go before those of ``kubeflow.parameters``; texts, read as each parameter's type asks.
        host: the API's URL, in the place of ``kubeflow.host``.
        cron: when to run, six fields; None for once, now.

    Raises:
        UserError: there is no such pipeline or parameter, one that it needs is missing or of another type, the cron
            expression has not six fields, or no host is known.
    """
    settings = params.load(params_file)
    kubeflow = settings.kubeflow
    made = package(pipeline, kubeflow)
    host = host or kubeflow.host
    if not host:
        raise UserError(f"{params_file}: kubeflow.host: say where KFP's API is, or give --host.")
    if not host.startswith(("http://", "https://")):
        raise UserError(f"--host {host}: give a URL that begins with https:// or http://.")
    if cron is not None and not _CRON.fullmatch(cron.strip()):
        raise UserError(f"--cron {cron!r}: KFP asks for six fields, the first the second: '0 0 3 * * *' is daily at 3.")
    if unknown := sorted(given.keys() - made.parameters.keys()):
        known = ", ".join(sorted(made.parameters))
        raise UserError(f"--set {unknown[0]}: the pipeline {pipeline} has no such parameter; it has {known}.")
    values: dict[str, Any] = {}
    if "settings" in made.parameters:
        values["settings"] = params_file.read_text(encoding="utf-8")
    values |= {name: value for name, value in kubeflow.parameters.items() if name in made.parameters}
    values |= given
    values = {name: _typed(name, value, made.parameters[name]["parameterType"]) for name, value in values.items()}
    needed = [name for name, one in made.parameters.items() if "defaultValue" not in one and not one.get("isOptional")]
    if missing := sorted(set(needed) - values.keys()):
        raise UserError(
            f"The pipeline {pipeline} needs {', '.join(missing)}; put them under kubeflow.parameters in {params_file},"
            f" or give --set {missing[0]}=VALUE."
        )
    cycle = f"-{settings.cycle.name}" if "settings" in made.parameters else ""
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"  # nobody else's: it is how a run is found again
    name = made.name if cron else f"{made.name}{cycle}-{stamp}"
    return Plan(
        made.name,
        made.version,
        name,
        host,
        kubeflow.namespace,
        kubeflow.experiment,
        kubeflow.service_account,
        cron.strip() if cron else None,
        values,
        made,
    )


def submit(planned: Plan, api: Pipelines, *, replace: bool = False, said: Callable[[str], None]) -> str:
    """Upload the pipeline, then start the run or make the schedule; return its id.

    What is there already is not made again: a version of the same content, or a schedule that says the same.

    Args:
        planned: what to do.
        api: KFP.
        replace: take another schedule of the same name away.
        said: is given a line about each thing that was done.

    Raises:
        UserError: KFP did not do it, or has another schedule of that name.
    """
    import kfp_server_api as kfp

    description = "A pipeline of SERM."
    pipeline_id = api.pipeline(planned.pipeline, description)
    with TemporaryDirectory() as directory:
        file = Path(directory) / f"{planned.version}.yaml"
        file.write_text(planned.package.text, encoding="utf-8")
        version_id = api.version(pipeline_id, planned.version, file, description)
    said(f"pipeline {planned.pipeline}, version {planned.version}")
    common = {
        "display_name": planned.run,
        "experiment_id": api.experiment(planned.experiment),
        "pipeline_version_reference": kfp.V2beta1PipelineVersionReference(
            pipeline_id=pipeline_id, pipeline_version_id=version_id
        ),
        "runtime_config": kfp.V2beta1RuntimeConfig(parameters=planned.parameters),
        "service_account": planned.service_account or None,
    }
    if planned.cron is None:
        run_id = api.start(kfp.V2beta1Run(**common))
        said(f"run {planned.run}, {run_id}")
        return run_id
    wanted = kfp.V2beta1RecurringRun(
        **common,
        trigger=kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=planned.cron)),
        mode="ENABLE",
        max_concurrency="1",  # a cycle begins where the one before it ended
        no_catchup=True,
    )
    return _scheduled(wanted, planned, api, replace, said)


def unschedule(planned: Plan, api: Pipelines) -> int:
    """Take the schedules of the planned name away, and return how many there were; runs stay."""
    found = api.schedules(planned.pipeline, api.experiment(planned.experiment))
    for one in found:
        api.unschedule(one.recurring_run_id)
    return len(found)


def _scheduled(wanted: Any, planned: Plan, api: Pipelines, replace: bool, said: Callable[[str], None]) -> str:
    there = api.schedules(planned.run, wanted.experiment_id)
    same = [one for one in there if _says(one) == _says(wanted) and one.status != "DISABLED"]
    others = [one for one in there if one not in same]
    if others and not replace:
        other = others[0]
        which = f"the schedule {planned.run} ({other.recurring_run_id})"
        why = f"{which} is disabled" if other.status == "DISABLED" else f"there is already {which}, another one"
        raise UserError(f"{planned.host}: {why}; give --replace to put this one in its place.")
    made = same[0].recurring_run_id if same else api.schedule(wanted, [one.recurring_run_id for one in others])
    for one in others:
        api.unschedule(one.recurring_run_id)
    said(f"schedule {planned.run}, {made}: {planned.cron} (UTC)")
    return str(made)


def _says(one: Any) -> tuple[Any, ...]:
    reference, schedule = one.pipeline_version_reference, one.trigger and one.trigger.cron_schedule
    return (
        reference and reference.pipeline_version_id,
        schedule and schedule.cron,
        one.runtime_config and one.runtime_config.parameters,
        one.service_account or None,
    )


def _typed(name: str, value: Any, kind: str) -> Any:
    wanted = _TYPES.get(kind)
    if wanted is None or (isinstance(value, wanted) and not (isinstance(value, bool) and wanted is int)):
        return value
    text = str(value)
    try:
        if wanted is bool:
            return {"true": True, "false": False}[text.lower()]
        read = wanted(text)
        if wanted is float and not math.isfinite(read):  # JSON has none
            raise ValueError(text)
        return read
    except (ValueError, KeyError) as error:
        raise UserError(f"The parameter {name}: {text!r} is no {kind.lower().replace('_', ' ')}.") from error
