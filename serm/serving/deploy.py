"""The deploy step: write the canary's InferenceService and try both models in the predictor that KServe runs."""

from __future__ import annotations

import json
from pathlib import Path

from serm.atomic import replace_directory, write_json, write_text
from serm.errors import UserError
from serm.serving import manifests, replay, server
from serm.settings import ServingSettings, Settings
from serm.step import Figures, step


@step
def deploy(champion: Path, trained: Path, validated: Path, evaluated: Path, out: Path, settings: Settings) -> Figures:
    """Write the InferenceService with the challenger as its canary, and replay requests on both models here.

    The challenger gets ``serving.canary_percent`` of the traffic when the gate passed it and it is fast enough here
    (``serving.max_p95_ms``), else none; either way both models answer the replayed requests. Promotion and rollback are
    decided online, so the decision here is ``hold``. Times differ from run to run, so they decide here and not at the
    gate, whose output has the same bytes in every run.

    Args:
        champion: the champion's directory.
        trained: the train step's output; the challenger is ``trained/model``.
        validated: the validate step's output, with ``impressions`` and ``documents``.
        evaluated: the evaluate step's output, with the gate's result in ``evaluate.json``.
        out: becomes ``inferenceservice.yaml`` and ``deploy.json``: decision, reason, gate, traffic_percent, and what
            ``serm.serving.replay.summarise`` returns.
        settings: uses the sections ``serving`` and ``engine``.

    Raises:
        UserError: an input is missing, the server does not start, or a request fails.
    """
    gate = _gate(evaluated / "evaluate.json")
    models = {"champion": champion, "challenger": trained / "model"}
    with server.running(models, settings.serving.predictor) as ready:
        requests = replay.sample(validated, settings)
        if not requests:
            raise UserError(f"{validated / 'impressions'}: no requests to replay; check the window in params.yaml.")
        answers = replay.replay(ready(), requests, settings.serving.concurrency)
    errors = [f"{name}: {answer.error}" for name, all_of_it in answers.items() for answer in all_of_it if answer.error]
    if errors:
        raise UserError(f"{len(errors)} of {2 * len(requests)} replayed requests failed; the first, {errors[0]}")

    percent, reason = _traffic(gate, replay.latency(answers["challenger"])["p95"], settings.serving)
    manifest = manifests.inference_service(settings, percent)
    summary = replay.summarise(requests, answers, settings.cycle.name, percent)
    with replace_directory(out) as beside:
        write_text(beside / "inferenceservice.yaml", manifests.as_yaml(manifest))
        write_json(
            beside / "deploy.json",
            {"decision": "hold", "reason": reason, "gate": gate, "traffic_percent": percent, **summary},
        )
    figures: Figures = {
        "decision": "hold",
        "traffic_percent": percent,
        "requests": summary["requests"],
        "top1_agreement": summary["top1_agreement"],
    }
    for name, numbers in summary["variants"].items():
        figures[f"{name}_p95_ms"] = numbers["latency_ms"]["p95"]
    return figures


def _traffic(gate: str, p95: float | None, settings: ServingSettings) -> tuple[int, str]:
    """Return the challenger's share of the traffic in percent, and why."""
    if gate != "passed":
        return 0, f"The gate's result is {gate}: the challenger gets no traffic."
    if p95 is None or p95 > settings.max_p95_ms:
        return 0, (
            f"The gate passed the challenger, but 95 % of its requests took up to {p95} ms here, and serving.max_p95_ms"
            f" is {settings.max_p95_ms:g}: it gets no traffic."
        )
    percent = settings.canary_percent
    return percent, (
        f"The gate passed the challenger: it starts with {percent} % of the traffic, and waits for online results."
    )


def _gate(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["gate"]["result"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run the evaluate step before.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no gate result in it ({error!r}); run the evaluate step again.") from error
