"""``serm export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from serm.cli.options import Json, Mined, Out, Tests, Validated, show
from serm.errors import UserError
from serm.layout import CYCLE


def _from_here(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Make a directory that was given absolute, for the verb runs at the workspace's root."""
    source = context.get_parameter_source(str(parameter.name))
    elsewhere = value.startswith(("hf://", "dvc://", "package:"))
    return value if elsewhere or source is None or source.name == "DEFAULT" else str(Path(value).absolute())


Model = Annotated[
    str,
    typer.Option(
        help="The trained model: a directory, hf://OWNER/NAME, dvc://TAG/PATH or package:NAME.", callback=_from_here
    ),
]
Runtime = Annotated[Literal["onnx", "openvino"], typer.Option(help="What runs the exported model.")]
Precision = Annotated[
    Literal["fp32", "int8", "int8-pairs", "int8-weights"],
    typer.Option(
        help="int8 and int8-pairs are calibrated on the mined pairs; int8-weights leaves activations as they are."
    ),
]
Documents = Annotated[
    Path | None,
    typer.Option(help="A catalogue, such as cycle/validate/documents: write the store of its texts, and no model."),
]
Judgments = Annotated[
    Path | None,
    typer.Option(help="Judgments, such as state/judgments: write the store of their grades, and no model."),
]
States = Annotated[
    bool,
    typer.Option("--states", help="With --documents: write what the model's lower layers make of each."),
]


def export(
    model: Model = str(CYCLE / "train" / "model"),
    mined: Mined = CYCLE / "mine",
    tests: Tests = Path("tests"),
    validated: Validated = CYCLE / "validate",
    out: Out = CYCLE / "export",
    runtime: Runtime = "openvino",
    precision: Precision = "fp32",
    documents: Documents = None,
    states: States = False,
    judgments: Judgments = None,
    json: Json = False,
) -> None:
    """Export a trained cross-encoder for serving; refused where it ranks otherwise than the trained model.

    With --documents, export a catalogue's texts for the transformer, to --out (cycle/documents.sqlite); with --states
    too, what --model computes of each before a query is there, for its predictor (cycle/states.sqlite). With
    --judgments, export the grades of judged pairs, by which the transformer ranks them too (cycle/judgments.sqlite).
    """
    if judgments is not None:
        if documents is not None:
            raise UserError("--judgments and --documents are two files: export the one, then the other.")
        from serm.serving.judgments import write as write_judgments

        file = CYCLE / "judgments.sqlite" if out == CYCLE / "export" else out
        show("judgments", write_judgments(judgments, file), json)
        return
    if states and documents is None:
        raise UserError("--states: of which documents? Give --documents cycle/validate/documents too.")
    if documents is not None:
        name = "states" if states else "documents"
        file = CYCLE / f"{name}.sqlite" if out == CYCLE / "export" else out
        if states:
            from serm.serving.states import write

            show(name, write(documents, model, file), json)
        else:
            from serm.serving import documents as store

            show(name, store.write(documents, file), json)
        return
    from serm.release.export import export

    show("export", export(model, mined, tests, validated, out, runtime, precision), json)
