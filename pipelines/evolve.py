"""The evolution cycle: from one window of the stream to a tagged challenger in a canary."""

from kfp import dsl

from components.annotate.component import annotate
from components.deploy.component import deploy
from components.drift.component import drift
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.mine.component import mine
from components.publish.component import publish
from components.record.component import record
from components.train.component import train
from components.validate.component import validate


def _given(uri: str, kind: type[dsl.Artifact], name: str) -> dsl.PipelineTask:
    return dsl.importer(artifact_uri=uri, artifact_class=kind).set_display_name(name)


@dsl.pipeline(name="serm-evolve", description="One cycle of SERM: watch, mine, judge, train, prove, publish.")
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
):
    """Run one cycle; of a window in which nothing drifted, keep what was found.

    Args:
        settings: the text of params.yaml.
        log: URI of the impressions so far.
        documents: URI of the catalogue.
        knowledge: URI of the judges' outside knowledge.
        tests: URI of the directory of the frozen and the rolling test set.
        champion: URI of the model that serves now.
        judgments: URI of all judgments so far.
        reference: URI of the impressions that the window is compared with.
        profiles: URI of what the validation of earlier cycles counted.
        windows: URI of the samples of earlier windows.
        repository: path of the git and DVC workspace that the cycle is published to.
        force: run the cycle though nothing drifted.
    """
    given_champion = _given(champion, dsl.Model, "champion").output
    given_judgments = _given(judgments, dsl.Dataset, "judgments").output
    given_tests = _given(tests, dsl.Dataset, "tests").output
    given_reference = _given(reference, dsl.Dataset, "reference").output

    ingested = ingest(log=_given(log, dsl.Dataset, "log").output, settings=settings)
    validated = validate(
        window=ingested.outputs["window"],
        documents=_given(documents, dsl.Dataset, "documents").output,
        judgments=given_judgments,
        profiles=_given(profiles, dsl.Dataset, "profiles").output,
        settings=settings,
    ).outputs["validated"]
    compared = drift(
        reference=given_reference,
        windows=_given(windows, dsl.Dataset, "windows").output,
        validated=validated,
        champion=given_champion,
        settings=settings,
        force=force,
    )
    # kfp.local can only branch on a component's plain return value, which KFP calls Output.
    with dsl.If(compared.outputs["Output"] == "evolve", name="drifted"):
        mined = mine(
            validated=validated,
            reference=given_reference,
            champion=given_champion,
            judgments=given_judgments,
            tests=given_tests,
            settings=settings,
        ).outputs["mined"]
        annotated = annotate(
            mined=mined,
            validated=validated,
            judgments=given_judgments,
            knowledge=_given(knowledge, dsl.Dataset, "knowledge").output,
            settings=settings,
        ).outputs["annotated"]
        trained = train(
            champion=given_champion,
            judgments=given_judgments,
            annotated=annotated,
            validated=validated,
            settings=settings,
        ).outputs["trained"]
        evaluated = evaluate(
            champion=given_champion,
            trained=trained,
            annotated=annotated,
            tests=given_tests,
            validated=validated,
            reference=given_reference,
            settings=settings,
        ).outputs["evaluated"]
        published = publish(
            repository=repository,
            window=ingested.outputs["window"],
            validated=validated,
            drifted=compared.outputs["drifted"],
            mined=mined,
            annotated=annotated,
            trained=trained,
            evaluated=evaluated,
            settings=settings,
        ).set_caching_options(False)
        deploy(
            champion=given_champion,
            trained=trained,
            validated=validated,
            evaluated=evaluated,
            settings=settings,
        ).after(published).set_caching_options(False)
    with dsl.Else(name="quiet"):
        record(
            repository=repository,
            window=ingested.outputs["window"],
            validated=validated,
            drifted=compared.outputs["drifted"],
            settings=settings,
        ).set_caching_options(False)
