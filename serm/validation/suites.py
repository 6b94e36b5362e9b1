"""Great Expectations suites that judge the profile of a window, and their pages (Data Docs).

GX 1.24 cannot read DuckDB (it fetches a result after it has closed the connection), and a log does not fit in
pandas. So the engine counts the violations of each rule, and the suites judge the counts: one suite a dataset,
over a table of one row with a column a rule, which holds the share of rows that break it.
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
    """A line of the profile: ``violations`` of ``rule`` among ``rows``; it passes up to the share ``limit``.

    A failed check of severity ``error`` stops the run; a ``warning`` reports.
    """

    dataset: str
    rule: str
    severity: Literal["error", "warning"]
    rows: int
    violations: int
    limit: float

    @property
    def share(self) -> float:
        """Violations in rows, 0 to 1."""
        return self.violations / self.rows if self.rows else 0.0


_SEVERITY = {"error": FailureSeverity.CRITICAL, "warning": FailureSeverity.WARNING}


def judge(checks: Sequence[Check], cycle: CycleSettings, docs: Path) -> list[Check]:
    """Return the checks that fail, errors first, and write ``docs``: index.html and a page a dataset."""
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
    for dataset, group in groupby(checks, key=lambda check: check.dataset):
        profile = list(group)
        result = _run(context, dataset, profile, cycle)

        passed = {
            one.expectation_config.kwargs["column"]: one.success for one in result.results if one.expectation_config
        }
        failed += [check for check in profile if not passed[check.rule]]
        verdicts[dataset] = bool(result.success)
        write_page(docs / f"{dataset}.html", result)
    write_index(docs / "index.html", cycle, verdicts)
    return sorted(failed, key=lambda check: check.severity)


def _run(
    context: AbstractDataContext, dataset: str, profile: Sequence[Check], cycle: CycleSettings
) -> ExpectationSuiteValidationResult:
    """Run the suite of ``dataset``; the run is named after the cycle, so that it is the same in every run."""
    expectations = [
        ExpectColumnMaxToBeBetween(
            column=check.rule,
            max_value=check.limit,
            severity=_SEVERITY[check.severity],
            description=f"{check.severity}: {check.violations:,} of {check.rows:,}; "
            f"the share may be {check.limit:g} at most",
        )
        for check in profile
    ]
    suite = context.suites.add(gx.ExpectationSuite(name=dataset, expectations=expectations))
    assets = context.data_sources.add_pandas(dataset)
    batch = assets.add_dataframe_asset(dataset).add_batch_definition_whole_dataframe("window")
    definition = gx.ValidationDefinition(name=dataset, data=batch, suite=suite)
    # Shares as Python objects: GX 1.24 cannot print numpy 2's floats.
    shares = pd.DataFrame([{check.rule: check.share for check in profile}], dtype=object)
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": shares},
        run_id=gx.RunIdentifier(run_name=cycle.name, run_time=cycle.end),
    )
