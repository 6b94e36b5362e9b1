"""The way in for programmers: a workspace as an object, and three functions over tables in memory.

Tables go in as Arrow or pandas and come back as they came. All of it is the same code that the steps run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from serm import layout
from serm.errors import UserError
from serm.settings import ClickSettings, EngineSettings, EvaluationSettings, Settings, load
from serm.settings.section import Section
from serm.step import Figures
from serm.steps import TABLE, Step

if TYPE_CHECKING:
    import pandas as pd

Table = TypeVar("Table", pa.Table, "pd.DataFrame")
OfSection = TypeVar("OfSection", bound=Section)


def score(model: Path | str, pairs: Table) -> Table:
    """Return ``pairs`` with what a relevance model thinks of them.

    Args:
        model: a directory, or what ``serm.relevance.location`` reads: ``hf://``, ``dvc://``, ``package:``.
        pairs: ``query`` and ``title``, and ``body`` if there is one; other columns stay.

    Returns:
        The rows in their order, with ``expected_grade`` (0 to 3, f of SERM) and ``pr_0`` to ``pr_3``, Pr(grade).

    Raises:
        UserError: there is no such model, or a column is missing.

    Examples:
        >>> import pandas as pd
        >>> pairs = pd.DataFrame({"query": ["cat", "cat"], "title": ["grinning cat", "red car"]})
        >>> scored = score(champion, pairs)  # a directory, such as runs/demo/state/champion
        >>> list(scored.columns)
        ['query', 'title', 'expected_grade', 'pr_0', 'pr_1', 'pr_2', 'pr_3']
        >>> bool(scored["expected_grade"].between(0, 3).all())
        True
    """
    from serm import relevance

    table = _arrow(pairs, ("query", "title"))
    bodies = table["body"].to_pylist() if "body" in table.column_names else [""] * table.num_rows
    documents = [
        relevance.document_text(title or "", body or "")
        for title, body in zip(table["title"].to_pylist(), bodies, strict=True)
    ]
    scores = relevance.load_scorer(model).score([query or "" for query in table["query"].to_pylist()], documents)
    named = {"expected_grade": scores.expected} | {f"pr_{grade}": scores.distribution[:, grade] for grade in range(4)}
    for name, values in named.items():
        table = table.append_column(name, pa.array(values))
    return _as_given(table, pairs)


def compare(judged: Table, cutoffs: Sequence[int] = (1, 10), permutations: int = 10_000, seed: int = 2016) -> Table:
    """Return how a challenger ranks judged documents beside a champion, with how sure the differences are.

    Queries whose documents all have the same grade tell nothing about a ranking and are left out.

    Args:
        judged: a row for each judged document of a query: ``query``, ``grade`` (0 to 3), ``champion`` and
            ``challenger`` (scores, the higher the better), and ``locale`` if a word is asked in several.
        cutoffs: ranks k of NDCG@k.
        permutations: random sign vectors of the paired test, and resamples of the bootstrap.
        seed: of the shuffle of equal scores, the bootstrap and the test.

    Returns:
        ``measure``, ``queries``, ``champion``, ``challenger`` (means over queries), ``difference`` with its 95 %
        interval ``low`` to ``high``, ``p`` (two-sided paired randomisation test, not adjusted for the number of
        measures) and ``detectable``: the smallest true difference that these queries show with 80 % chance.

    Raises:
        UserError: a column is missing, or no query has documents of different grades.

    Examples:
        >>> import pyarrow as pa
        >>> rows = [(f"q{n}", grade, -grade, grade) for n in range(40) for grade in range(4)]
        >>> judged = pa.table(dict(zip(["query", "grade", "champion", "challenger"], zip(*rows))))
        >>> found = compare(judged, cutoffs=[1]).to_pylist()[0]
        >>> found["measure"], found["queries"], found["champion"], found["challenger"], found["p"] < 0.001
        ('NDCG@1', 40, 0.0, 1.0, True)
    """
    from serm.evaluation import measures
    from serm.evaluation.significance import bootstrap_interval, detectable_effect, randomisation_p

    table = _arrow(judged, ("query", "grade", "champion", "challenger"))
    key = [name for name in ("locale", "query") if name in table.column_names]
    spread = table.group_by(key).aggregate([("grade", "min"), ("grade", "max")])
    spread = spread.filter(pc.not_equal(spread["grade_min"], spread["grade_max"])).select(key)
    if not spread.num_rows:
        raise UserError(
            "judged: no query has documents of different grades, so that no ranking is better than another."
        )
    numbered = spread.append_column("number", pa.array(range(spread.num_rows), pa.int64()))
    rows = table.join(numbered, key, join_type="inner")
    number, grade = (rows[name].to_numpy().astype(np.int64) for name in ("number", "grade"))
    settings = _section(EvaluationSettings, cutoffs=tuple(cutoffs), gate={"cutoff": cutoffs[0]}, seed=seed)
    champion, challenger = (
        measures.measure(number, grade, rows[name].to_numpy().astype(np.float64), settings)
        for name in ("champion", "challenger")
    )
    differences = challenger - champion
    low, high = bootstrap_interval(differences, permutations, 0.95, seed)
    found = pa.table(
        {
            "measure": measures.names(settings),
            "queries": [len(differences)] * differences.shape[1],
            "champion": champion.mean(axis=0),
            "challenger": challenger.mean(axis=0),
            "difference": differences.mean(axis=0),
            "low": low,
            "high": high,
            "p": randomisation_p(differences, permutations, seed),
            "detectable": detectable_effect(differences, 0.05),
        }
    )
    return _as_given(found, judged)


def fit_clicks(log: Table, model: str = "auto") -> Table:
    """Return what users find relevant, with the position they saw it at taken out of their clicks.

    Args:
        log: impressions: ``query_id`` (a page), ``query``, ``doc_id``, ``position`` (from 1) and ``clicked``, and
            ``locale`` if there are several. All count: ``serm mine`` counts a pair no more than ``clicks.per_user``
            times for one user.
        model: pbm, ubm, sdbn, dbn, or auto: the one that best foretells pages which it has not seen.

    Returns:
        A row for each pair of query and document: ``impressions``, ``clicks``, ``attractiveness`` and ``relevance``
        (0 to 1) with their standard errors; the Arrow table's metadata names the model.

    Raises:
        UserError: a column is missing, there are no rows, or a position is below 1.

    Examples:
        >>> import pandas as pd
        >>> pages = [(f"p{n}", "cat", doc, place, n % 4 == 0 and doc == "a")
        ...          for n in range(200) for place, doc in enumerate(("a", "b"), 1)]
        >>> log = pd.DataFrame(pages, columns=["query_id", "query", "doc_id", "position", "clicked"])
        >>> found = fit_clicks(log, "pbm").set_index("doc_id")
        >>> bool(found.loc["a", "attractiveness"] > found.loc["b", "attractiveness"])
        True
    """
    from serm import clicks
    from serm import engine as engines

    table = _arrow(log, ("query_id", "query", "doc_id", "position", "clicked"))
    if "locale" not in table.column_names:
        table = table.append_column("locale", pa.array([""] * table.num_rows, pa.string()))
    with engines.duckdb(EngineSettings()) as engine:
        impressions = engines.load(engine, "api_log", table)
        counts = engines.hold(engine, "api_counts", clicks.count(impressions))
        numbers = clicks.ClickCounts.read(counts)
        numbered = engines.hold(engine, "api_pages", clicks.number(impressions, counts))
        fitted = clicks.fit(numbered, numbers, _section(ClickSettings, model=model))
        shown = counts.group_by(*clicks.PAIR, "pair").aggregate(
            impressions=counts.impressions.sum(), clicks=counts.clicks.sum()
        )
        pairs = engine.to_pyarrow(shown.order_by("pair")).drop_columns(["pair"])
    for name in ("attractiveness", "standard_error", "relevance", "relevance_error"):
        pairs = pairs.append_column(name, pa.array(getattr(fitted, name)))
    if "locale" not in _columns(log):
        pairs = pairs.drop_columns(["locale"])
    return _as_given(pairs.replace_schema_metadata({"click_model": fitted.summary["model"]}), log)


def _section(section: type[OfSection], **given: object) -> OfSection:
    try:
        return section.model_validate(given)
    except ValidationError as error:
        raise UserError("; ".join(problem["msg"] for problem in error.errors(include_url=False)) + ".") from error


def _columns(given: pa.Table | pd.DataFrame) -> list[str]:
    return list(given.column_names if isinstance(given, pa.Table) else given.columns)


def _arrow(given: pa.Table | pd.DataFrame, needed: Sequence[str]) -> pa.Table:
    if missing := [name for name in needed if name not in _columns(given)]:
        raise UserError(f"column {', '.join(missing)} is missing; the table has {', '.join(_columns(given))}.")
    return given if isinstance(given, pa.Table) else pa.Table.from_pandas(given, preserve_index=False)


def _as_given(found: pa.Table, given: Table) -> Table:
    kept: Table = found if isinstance(given, pa.Table) else found.to_pandas()
    return kept


class Workspace:
    """A workspace, each verb of which is a method: those of the steps, and ``evolve``, ``advance`` and ``report``.

    The steps are ``ingest``, ``validate``, ``drift``, ``mine``, ``annotate``, ``train``, ``evaluate``, ``publish``,
    ``deploy`` and ``record`` (``serm.steps``). They take no arguments: they read and write where the workspace has it,
    with the settings of its params.yaml, and return their figures. While one runs, no other command may write there.

    Examples:
        >>> shop = Workspace(directory)  # holds .dvc, params.yaml and the inputs, as docs/workspace.md says
        >>> shop.ingest()["rows_kept"] > 0
        True
        >>> shop.ingest.__doc__
        'Cut one window of the stream out of the query log.'
    """

    def __init__(self, path: Path | str) -> None:
        """Open the workspace that ``path`` lies in.

        Raises:
            UserError: there is none, from ``path`` upwards.
        """
        root = layout.root_of(Path(path).resolve())
        if root is None:
            raise UserError(f"{path}: no workspace, which holds .dvc and params.yaml, here or in a directory above.")
        self.path = root

    def __repr__(self) -> str:
        return f"serm.Workspace({str(self.path)!r})"

    @property
    def settings(self) -> Settings:
        """What params.yaml says now."""
        return load(self.path / layout.PARAMS)

    def evolve(self, force: bool = False) -> dict[str, Figures]:
        """Run one cycle, as ``serm.workspace.runner.run_cycle`` does, and return the figures of each step."""
        from serm.workspace.runner import run_cycle

        return run_cycle(self.path, force)

    def advance(self) -> Figures:
        """Make what the cycle proved the next cycle's state, as ``serm.workspace.advance.advance`` does."""
        from serm.workspace.advance import advance

        return advance(self.path, self.settings)

    def report(self) -> Path:
        """Write the HTML report over all published cycles, and return its first page."""
        from serm import report

        return report.build(self.path, self.path / layout.REPORT)

    if TYPE_CHECKING:

        def __getattr__(self, step: str) -> Callable[[], Figures]: ...


def _method(step: Step) -> Callable[[Workspace], Figures]:
    def run(self: Workspace) -> Figures:
        from serm.workspace.lock import writing

        with writing(self.path, f"serm {step.name}"), contextlib.chdir(self.path):  # as the verb: settings name paths
            return step.at(self.path, self.settings)

    run.__name__, run.__qualname__, run.__doc__ = step.name, f"Workspace.{step.name}", step.help
    return run


for _step in TABLE:
    setattr(Workspace, _step.name, _method(_step))
