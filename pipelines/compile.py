"""Compile every pipeline to ``pipelines/compiled/``: ``python -m pipelines.compile``."""

from pathlib import Path

from kfp import compiler

from pipelines.evolve import evolve

COMPILED = Path(__file__).parent / "compiled"
PIPELINES = {"evolve": evolve}


def compile_all(directory: Path = COMPILED) -> list[Path]:
    """Write each pipeline's IR YAML into ``directory`` and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, pipeline in PIPELINES.items():
        path = directory / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        written.append(path)
    return written


if __name__ == "__main__":
    for path in compile_all():
        print(path)
