"""Great Expectations suites that judge the profile of a window, and their pages (Data Docs).

GX 1.24 cannot read DuckDB (it fetches a result after it has closed the connection), and a log does not fit in
pandas. So the engine measures, and the suites judge the measurements: one suite a dataset, over a table of one row
with a column a check.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # GX phones home unless told not to before it is imported

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.core.expect_column_max_to_be_between import ExpectColumnMaxToBeBetween
from great_expectations.expectations.metadata_types import FailureSeverity

from serm.settings import CycleSettings
from serm.validation.data_docs import write_index, write_page


@dataclass(frozen=True)
class Check:
    """What the engine measured of a dataset, and what is allowed."""

    dataset: str
    rule: str
    severity: Literal["error", "warning"]
    """A failed check of severity ``error`` stops the run; a ``warning`` reports."""
    value: float | None
    """The measurement; None where there was nothing to measure it by: then it has neither passed nor failed."""
    finding: str
    """The measurement in words."""
    low: float | None = None
    """The least that passes; None: no bound."""
    high: float | None = None
    """The most that passes; None: no bound."""
    setting: str = ""
    """The field of ``validation`` in params.yaml that gives the bound."""
    violations: int | None = None
    """Rows that broke the rule, where it is one of rows: then ``value`` is their share."""

    @property
    def allowed(self) -> str:
        """The bound in words."""
        return f"at most {self.high:g}" if self.high is not None else f"at least {self.low:g}"


_SEVERITY = {"error": FailureSeverity.CRITICAL, "warning": FailureSeverity.WARNING}


def judge(checks: Sequence[Check], cycle: CycleSettings, docs: Path) -> list[Check]:
    """Return the checks that fail, errors first, and write ``docs``: index.html and a page a dataset.

    Checks without a value are in no suite; index.html lists them as not checked.
    """
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )
    docs.mkdir()
    failed: list[Check] = []
    verdicts: dict[str, bool] = {}
    measured = [check for check in checks if check.value is not None]
    for dataset, group in groupby(measured, key=lambda check: check.dataset):
        profile = list(group)
        result = _run(context, dataset, profile, cycle)

        passed = {
            one.expectation_config.kwargs["column"]: one.success for one in result.results if one.expectation_config
        }
        failed += [check for check in profile if not passed[check.rule]]
        verdicts[dataset] = bool(result.success)
        write_page(docs / f"{dataset}.html", dataset, cycle, result)
    unchecked = [(check.dataset, check.rule, check.finding) for check in checks if check.value is None]
    write_index(docs / "index.html", cycle, verdicts, unchecked)
    return sorted(failed, key=lambda check: check.severity)


def _run(
    context: AbstractDataContext, dataset: str, profile: Sequence[Check], cycle: CycleSettings
) -> ExpectationSuiteValidationResult:
    """Run the suite of ``dataset``; the run is named after the cycle, so that it is the same in every run."""
    expectations = [
        ExpectColumnMaxToBeBetween(
            column=check.rule,
            min_value=check.low,
            max_value=check.high,
            severity=_SEVERITY[check.severity],
            description=f"{check.severity}: {check.finding}; allowed: {check.allowed}",
        )
        for check in profile
    ]
    suite = context.suites.add(gx.ExpectationSuite(name=dataset, expectations=expectations))
    assets = context.data_sources.add_pandas(dataset)
    batch = assets.add_dataframe_asset(dataset).add_batch_definition_whole_dataframe("window")
    definition = gx.ValidationDefinition(name=dataset, data=batch, suite=suite)
    # Values as Python objects: GX 1.24 cannot print numpy 2's floats.
    values = pd.DataFrame([{check.rule: check.value for check in profile}], dtype=object)
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": values},
        run_id=gx.RunIdentifier(run_name=cycle.name, run_time=cycle.end),
    )
