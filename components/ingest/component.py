"""Cut one window of the stream out of the query log."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.DATA, install_kfp_package=False)
def ingest(
    log: dsl.Input[dsl.Dataset],
    settings: str,
    window: dsl.Output[dsl.Dataset],
    figures: dsl.Output[dsl.Metrics],
):
    """Cut one window of the stream out of the query log."""
    from pathlib import Path

    from serm.settings import parse
    from serm.stream import ingest

    figures.metadata.update(
        ingest(
            Path(log.path),
            Path(window.path),
            parse(settings),
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
