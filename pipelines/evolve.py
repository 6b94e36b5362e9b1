"""The evolution cycle: from one window of the stream to a tagged challenger in a canary, as the table of steps says."""

from typing import Any

from kfp import dsl

from pipelines.cycle import KEPT, VOLUME, add, add_rest, add_watch, leaving_a_report
from serm import steps
from serm.steps import Data


def _given(one: Data, uri: str) -> Any:
    return dsl.importer(artifact_uri=uri, artifact_class=getattr(dsl, one.kind)).set_display_name(one.name).output


@dsl.pipeline(
    name="serm-evolve",
    description="One cycle of SERM: watch, mine, judge, train, prove, publish.",
    pipeline_config=VOLUME,
)
def evolve(
    settings: str,
    log: str,
    documents: str,
    knowledge: str,
    tests: str,
    champion: str,
    judgments: str,
    reference: str,
    profiles: str,
    windows: str,
    repository: str,
    force: bool = False,
    kept: str = KEPT,
):
    """Run one cycle; of a window in which nothing drifted, keep what was found. However it ends, leave a report.

    Args:
        settings: the text of params.yaml.
        log: URI of the impressions so far.
        documents: URI of the catalogue.
        knowledge: URI of the judges' outside knowledge.
        tests: URI of the test sets: frozen/ and rolling/, each with served/ and pool/.
        champion: URI of the model that serves now.
        judgments: URI of all judgments so far.
        reference: URI of the impressions that the window is compared with.
        profiles: URI of what the validation of earlier cycles counted.
        windows: URI of the samples of earlier windows.
        repository: where the cycle is published to: a git URL, or the path of a git and DVC workspace.
        force: run the cycle though nothing drifted.
        kept: directory in which mine and train keep what a killed try of theirs goes on from; on the run's volume,
            which all of its tries see.
    """
    uris = {
        "log": log,
        "documents": documents,
        "knowledge": knowledge,
        "tests": tests,
        "champion": champion,
        "judgments": judgments,
        "reference": reference,
        "profiles": profiles,
        "windows": windows,
    }
    with leaving_a_report(repository=repository, settings=settings):
        data = {one: _given(one, uris[one.name]) for one in steps.GIVEN}
        parameters = {"settings": settings, "repository": repository, "force": force, "kept": kept}
        parameters["run"] = dsl.PIPELINE_JOB_ID_PLACEHOLDER

        decided = add_watch(data, parameters)
        with dsl.If(decided == "evolve", name="drifted"):
            add_rest(data, parameters)
        with dsl.Else(name="quiet"):
            add(steps.RECORD, data, parameters).set_caching_options(False)
