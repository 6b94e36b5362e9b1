"""The step that splits a window and its catalogue into rows to trust and rows in quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.settings import Settings
from serm.step import Figures, step
from serm.validation.rules import flag_documents, flag_impressions
from serm.validation.suites import Check, judge


@dataclass(frozen=True)
class Split:
    """How the rows of a dataset fell: ``violations`` by rule; a row that broke several counts in each."""

    dataset: str
    rows_in: int
    rows_kept: int
    violations: dict[str, int]

    @property
    def rows_quarantined(self) -> int:
        """Rows that broke at least one rule."""
        return self.rows_in - self.rows_kept


@step
def validate(window: Path, documents: Path, out: Path, settings: Settings) -> Figures:
    """Write the rows that keep every rule to ``out/impressions`` and ``out/documents``, the rest to quarantine.

    ``window`` is what ingest wrote; ``documents`` is a DOCUMENTS dataset. ``out/quarantine`` holds the other
    rows as JSON, each with all its reasons; ``out/validation.json`` the profile (violations by rule);
    ``out/data_docs`` the verdict of the Great Expectations suites on it.

    Raises:
        UserError: more than ``validation.max_quarantined_share`` of a dataset is in quarantine, or fewer than
            ``validation.min_impressions`` impressions are left. ``out`` is written before.
    """
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        checked, rules = flag_documents(contracts.scan(engine, documents, contracts.DOCUMENTS), settings.cycle)
        all_documents = engines.hold(engine, "checked_documents", checked)
        impressions = contracts.scan(engine, window / "impressions", contracts.IMPRESSIONS)
        checked, impression_rules = flag_impressions(impressions, _kept(all_documents), settings.cycle)
        all_impressions = engines.hold(engine, "checked_impressions", checked)
        splits = [
            _split(engine, all_documents, rules, beside / "documents", contracts.DOCUMENTS),
            _split(engine, all_impressions, impression_rules, beside / "impressions", contracts.IMPRESSIONS),
        ]
        quarantine = ibis.union(
            _quarantined(all_documents, "documents", contracts.DOCUMENTS),
            _quarantined(all_impressions, "impressions", contracts.IMPRESSIONS),
        )
        quarantined = engines.write(
            engine, quarantine, beside / "quarantine", contracts.QUARANTINE, contracts.QUARANTINE.names
        )
        if quarantined != sum(split.rows_quarantined for split in splits):
            raise RuntimeError(f"rows lost: {splits} and {quarantined} rows in quarantine")
        checks = [check for split in splits for check in _checks(split, settings)]
        failed = judge(checks, settings.cycle, beside / "data_docs")
        write_json(beside / "validation.json", _summary(splits, checks, failed))
    stopping = [check for check in failed if check.severity == "error"]
    if stopping:
        raise UserError(_explain(stopping[0], splits, out, settings))
    return {
        **{f"{split.dataset}_kept": split.rows_kept for split in splits},
        **{f"{split.dataset}_quarantined": split.rows_quarantined for split in splits},
        "rules_broken": sum(count > 0 for split in splits for count in split.violations.values()),
    }


def _split(engine: BaseBackend, flagged: ibis.Table, rules: Sequence[str], path: Path, schema: pa.Schema) -> Split:
    """Write the rows of ``flagged`` that broke no rule to ``path``, and count the others by rule."""
    sums = {rule: flagged.reasons.contains(rule).sum().fill_null(0) for rule in rules}
    counts = flagged.aggregate(rows=flagged.count(), **sums).to_pyarrow().to_pylist()[0]
    rows_in = counts.pop("rows")
    rows_kept = engines.write(engine, _kept(flagged), path, schema, _ORDER[path.name])
    return Split(path.name, rows_in, rows_kept, counts)


#: Within a dataset, rows are sorted by these columns.
_ORDER = {"documents": ("doc_id",), "impressions": ("event_time", "session_id", "position")}


def _kept(flagged: ibis.Table) -> ibis.Table:
    return flagged.filter(flagged.reasons.length() == 0)


def _quarantined(flagged: ibis.Table, dataset: str, schema: pa.Schema) -> ibis.Table:
    broken = flagged.filter(flagged.reasons.length() > 0)
    row = ibis.struct({name: broken[name] for name in schema.names}).cast("json").cast("string")
    return broken.select(dataset=ibis.literal(dataset), reason=broken.reasons.join("; "), row=row)


def _checks(split: Split, settings: Settings) -> list[Check]:
    """The profile of a dataset: rules of rows only warn, their sum and the volume can stop the run."""
    limits = settings.validation
    checks = [
        Check(split.dataset, rule, "warning", split.rows_in, violations, limit=0.0)
        for rule, violations in split.violations.items()
    ]
    checks.append(
        Check(
            split.dataset,
            "rows in quarantine",
            "error",
            split.rows_in,
            split.rows_quarantined,
            limits.max_quarantined_share,
        )
    )
    if split.dataset == "impressions":
        wanted = limits.min_impressions
        lacking = max(0, wanted - split.rows_kept)
        checks.append(Check(split.dataset, "impressions lacking", "error", wanted, lacking, limit=0.0))
    return checks


def _summary(splits: Sequence[Split], checks: Sequence[Check], failed: Sequence[Check]) -> dict[str, object]:
    return {
        "datasets": {
            split.dataset: {
                "rows_in": split.rows_in,
                "rows_kept": split.rows_kept,
                "rows_quarantined": split.rows_quarantined,
            }
            for split in splits
        },
        "profile": [{**asdict(check), "share": check.share, "passed": check not in failed} for check in checks],
    }


def _explain(check: Check, splits: Sequence[Split], out: Path, settings: Settings) -> str:
    """One sentence on the hard failure ``check``: what, where and the fix."""
    split = next(split for split in splits if split.dataset == check.dataset)
    worst = max(split.violations, key=lambda rule: split.violations[rule])
    broken = f"most by {worst!r} ({split.violations[worst]:,} rows)" if split.violations[worst] else "none broke a rule"
    if check.rule == "impressions lacking":
        what = (
            f"{split.rows_kept:,} of {split.rows_in:,} impressions are left, fewer than "
            f"validation.min_impressions = {settings.validation.min_impressions:,} ({broken})"
        )
    else:
        what = (
            f"{check.violations:,} of {check.rows:,} {check.dataset} ({check.share:.1%}) broke a rule, more than "
            f"validation.max_quarantined_share = {check.limit:.1%}, {broken}"
        )
    return f"{what}; see {out / 'quarantine'} and {out / 'data_docs' / 'index.html'}, mend the log or the limit."
