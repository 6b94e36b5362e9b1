"""The steps of a cycle, once: what each reads and writes, its settings, its image and what it needs of a machine.

The verbs of the command line, dvc.yaml, the KFP components, the pipeline's wiring, what is published and what the
report shows come from here; ``make compile`` writes the files among them. docs/add-a-step.md adds a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from serm import layout
from serm.step import Figures

if TYPE_CHECKING:
    from serm.settings import Settings

#: KFP's artifact types.
Kind = Literal["Artifact", "Dataset", "Model"]
#: The container images, as ``components/images.py`` spells them.
Image = Literal["data", "train", "judge"]


@dataclass(frozen=True)
class Data:
    """What a step reads or writes."""

    name: str
    """Of the function's argument, of the option and of the component's artifact."""
    path: Path
    """In the workspace, relative to its root."""
    kind: Kind
    help: str
    """One line for people: a sentence, or the start of one."""


@dataclass(frozen=True)
class Step:
    """One step: its function takes what it reads, in this order, then the directory to write, then the settings."""

    name: str
    """Of the verb, the stage, the component, the task and the summary: ``<name>.json``."""
    function: str
    """``module:name``, imported when it is called."""
    help: str
    """What it does, in a sentence."""
    reads: tuple[Data, ...]
    writes: Data | None
    """None: it commits what it reads, and its function takes the workspace, the outputs by step, and the settings."""
    params: tuple[str, ...]
    """The sections of params.yaml whose change runs it again."""
    image: Image
    cpu: str
    memory: str
    """What its container asks of a cluster, as Kubernetes spells it; it may use more."""
    resumes: bool = False
    """Whether its function takes, last, the directory for what a killed run goes on from; None: beside its output."""
    decides: bool = False
    """Whether its figure ``decision`` says if the steps after it run: ``evolve``, or ``quiet``."""
    labels: bool = False
    """Whether its summary holds the confusion matrix of its labels, which KFP's page of a run draws."""

    def __call__(self, *arguments: Any) -> Figures:
        """Call the function, and return its figures."""
        return self.load()(*arguments)

    def at(self, root: Path, settings: Settings) -> Figures:
        """Call the function on the workspace ``root``, as its layout is."""
        if self.writes is None:
            return self(root, {one.path.name: root / one.path for one in self.reads}, settings)
        return self(*(root / one.path for one in (*self.reads, self.writes)), settings)

    def load(self) -> Callable[..., Figures]:
        """Import the function."""
        module, name = self.function.split(":")
        function: Callable[..., Figures] = getattr(import_module(module), name)
        return function


def _output(name: str, step: str, kind: Kind) -> Data:
    return Data(name, layout.CYCLE / step, kind, f"What `serm {step}` wrote.")


#: The state is read as it was when the cycle began (``serm begin``), so that ``advance`` changes no step's input.
LOG = Data(
    "log",
    layout.LOG,
    "Dataset",
    "The query log: Parquet, or UBI as JSON lines or OpenSearch bulk; a file or a directory.",
)
DOCUMENTS = Data("documents", layout.DOCUMENTS, "Dataset", "The catalogue (Parquet).")
KNOWLEDGE = Data("knowledge", layout.KNOWLEDGE, "Dataset", "The judges' outside knowledge (Parquet).")
TESTS = Data(
    "tests", layout.TESTS, "Dataset", "The test sets: frozen/ and rolling/, each with served/ and pool/ (Parquet)."
)
CHAMPION = Data("champion", layout.CYCLE / layout.CHAMPION, "Model", "The model that serves now.")
JUDGMENTS = Data("judgments", layout.CYCLE / layout.JUDGMENTS, "Dataset", "All judgments so far (Parquet).")
REFERENCE = Data(
    "reference", layout.CYCLE / layout.REFERENCE, "Dataset", "Impressions to compare the window with (Parquet)."
)
PROFILES = Data(
    "profiles", layout.CYCLE / layout.PROFILES, "Dataset", "What earlier cycles' validation counted (Parquet)."
)
WINDOWS = Data(
    "windows", layout.CYCLE / layout.WINDOWS, "Dataset", "Samples of the earlier windows, as `serm drift` keeps them."
)
#: What a cycle is given; the parameters of the pipeline are their URIs.
GIVEN = (LOG, DOCUMENTS, KNOWLEDGE, TESTS, CHAMPION, JUDGMENTS, REFERENCE, PROFILES, WINDOWS)

WINDOW = _output("window", "ingest", "Dataset")
VALIDATED = _output("validated", "validate", "Dataset")
DRIFTED = _output("drifted", "drift", "Artifact")
MINED = _output("mined", "mine", "Dataset")
ANNOTATED = _output("annotated", "annotate", "Dataset")
TRAINED = _output("trained", "train", "Model")
EVALUATED = _output("evaluated", "evaluate", "Artifact")
DEPLOYED = _output("deployed", "deploy", "Artifact")

#: The stages of dvc.yaml, in order: each is reproducible, and its output is published.
STAGES = (
    Step(
        name="ingest",
        function="serm.stream:ingest",
        help="Cut one window of the stream out of the query log.",
        reads=(LOG,),
        writes=WINDOW,
        params=("cycle", "stream"),
        image="data",
        cpu="1",
        memory="3Gi",
    ),
    Step(
        name="validate",
        function="serm.validation:validate",
        help="Check window, catalogue and judgments: bad rows go to quarantine, too many of them stop the run.",
        reads=(WINDOW, DOCUMENTS, JUDGMENTS, PROFILES),
        writes=VALIDATED,
        params=("cycle", "validation"),
        image="data",
        cpu="1",
        memory="3Gi",
    ),
    Step(
        name="drift",
        function="serm.drift:drift",
        help="Say what changed since the earlier windows, and whether that is worth a cycle.",
        reads=(REFERENCE, WINDOWS, VALIDATED, CHAMPION),
        writes=DRIFTED,
        params=("cycle", "drift"),
        image="train",
        cpu="1",
        memory="3Gi",
        decides=True,
    ),
    Step(
        name="mine",
        function="serm.mining:mine",
        help="Mine the few pairs of the window that are worth a judge's time.",
        reads=(VALIDATED, REFERENCE, CHAMPION, JUDGMENTS, TESTS),
        writes=MINED,
        params=("cycle", "clicks", "mining", "relevance"),
        image="train",
        cpu="2",
        memory="4Gi",
        resumes=True,
    ),
    Step(
        name="annotate",
        function="serm.judging:annotate",
        help="Have the panel of judges label the mined pairs.",
        reads=(MINED, VALIDATED, JUDGMENTS, KNOWLEDGE),
        writes=ANNOTATED,
        params=("cycle", "judging", "relevance"),
        image="judge",
        cpu="2",
        memory="4Gi",
        labels=True,
    ),
    Step(
        name="train",
        function="serm.training:train",
        help="Fine-tune a challenger on new, earlier and seed judgments.",
        reads=(CHAMPION, JUDGMENTS, ANNOTATED, VALIDATED),
        writes=TRAINED,
        params=("cycle", "training", "relevance"),
        image="train",
        cpu="2",
        memory="4Gi",
        resumes=True,
    ),
    Step(
        name="evaluate",
        function="serm.release:evaluate",
        help="Measure champion and challenger on both test sets, and pass or fail the challenger.",
        reads=(CHAMPION, TRAINED, ANNOTATED, TESTS, VALIDATED, REFERENCE),
        writes=EVALUATED,
        params=("cycle", "evaluation", "relevance"),
        image="train",
        cpu="2",
        memory="4Gi",
    ),
)
#: Those that every window goes through; the others run where something drifted.
WATCHING = STAGES[: 1 + [step.decides for step in STAGES].index(True)]

PUBLISH = Step(
    name="publish",
    function="serm.monitoring.commit:publish",
    help="Commit and tag the cycle in git, with every byte pinned by DVC.",
    reads=tuple(step.writes for step in STAGES if step.writes),
    writes=None,
    params=(),
    image="train",
    cpu="1",
    memory="3Gi",
)
DEPLOY = Step(
    name="deploy",
    function="serm.serving.deploy:deploy",
    help="Write the canary's InferenceService and try both models in the server that KServe runs.",
    reads=(CHAMPION, TRAINED, VALIDATED, EVALUATED),
    writes=DEPLOYED,
    params=(),
    image="train",
    cpu="2",
    memory="4Gi",
)
RECORD = Step(
    name="record",
    function="serm.monitoring.commit:record",
    help="Commit and tag a window in which nothing drifted, in the place of a cycle.",
    reads=tuple(step.writes for step in WATCHING if step.writes),
    writes=None,
    params=(),
    image="train",
    cpu="1",
    memory="3Gi",
)
#: All, in the order of the pipeline. The last three change the world outside (git's history, a cluster): no stages.
TABLE = (*STAGES, PUBLISH, DEPLOY, RECORD)

#: Names: of the stages, of those that watch, and of all.
STEPS = tuple(step.name for step in STAGES)
WATCH = tuple(step.name for step in WATCHING)
RUN = tuple(step.name for step in TABLE)


def named(name: str) -> Step:
    """Return the step ``name``.

    Raises:
        KeyError: there is none.
    """
    return {step.name: step for step in TABLE}[name]
