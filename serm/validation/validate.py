"""The step that splits a window and its catalogue into rows to trust and rows in quarantine."""

from __future__ import annotations

import logging
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
from serm.pairs.documents import removed
from serm.settings import Settings, ValidationSettings
from serm.step import Figures, step
from serm.validation import profile
from serm.validation.rules import Flagged, flag_documents, flag_impressions, flag_judgments
from serm.validation.suites import Check, judge

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """How the rows of a dataset fell: ``violations`` by rule; a row that broke several counts in each."""

    dataset: str
    rows_in: int
    rows_kept: int
    rows_retired: int
    """Rows that broke no rule, but are of a document that is gone."""
    violations: dict[str, int]

    @property
    def rows_quarantined(self) -> int:
        """Rows that broke at least one rule."""
        return self.rows_in - self.rows_kept - self.rows_retired


@step
def validate(window: Path, documents: Path, judgments: Path, profiles: Path, out: Path, settings: Settings) -> Figures:
    """Write the rows that keep every rule to ``out/impressions`` and ``out/documents``, the rest to quarantine.

    ``window`` is what ingest wrote; ``documents`` is a DOCUMENTS dataset, ``judgments`` a JUDGMENTS one: it is
    checked and not copied. A judgment of a document that is gone, or in quarantine, is retired: it is counted, stays
    where it is, and no step uses it until the document is back; so is an impression of a document that was taken out of
    the catalogue (``serm documents update``). ``profiles`` is what earlier cycles wrote to
    ``out/profiles`` (PROFILES); where there is no such directory, as before the first cycle, volume and locale mix are
    reported as not checked.
    ``out/quarantine`` holds the other rows as JSON, each with all its reasons; ``out/validate.json`` every check;
    ``out/data_docs`` the verdict of the Great Expectations suites on them.

    Raises:
        UserError: a check of severity ``error`` failed (see ``ValidationSettings``), or every judgment is retired.
            ``out`` is written before.
    """
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        flagged = _flag(engine, window, documents, judgments, settings)
        splits = [_split(engine, one, beside) for one in flagged]
        quarantine = ibis.union(*(one.quarantined for one in flagged))
        quarantined = engines.write(
            engine, quarantine, beside / "quarantine", contracts.QUARANTINE, contracts.QUARANTINE.names
        )
        if quarantined != sum(split.rows_quarantined for split in splits):
            raise RuntimeError(f"rows lost: {splits} and {quarantined} rows in quarantine")
        sound = {one.dataset: one.sound for one in flagged}
        now, earlier = profile.count(sound, settings.cycle), _earlier(profiles, settings)
        contracts.write(pa.concat_tables([earlier, now]), beside / "profiles", contracts.PROFILES)
        checks = [check for split in splits for check in _checks(split, settings)]
        checks += [*profile.freshness(sound, settings), *profile.beside_earlier(now, earlier, settings)]
        judged = profile.count({"judgments": flagged[-1].kept}, settings.cycle)
        checks.append(profile.unjudged(now, judged, settings))
        paths = (documents, window / "impressions", judgments)
        checks += [_types(one, path) for one, path in zip(flagged, paths, strict=True)]
        checks.sort(key=lambda check: check.dataset)
        failed = judge(checks, settings.cycle, beside / "data_docs")
        write_json(beside / "validate.json", _summary(splits, checks, failed))
    _tell(failed, checks, out)
    of_judgments = splits[-1]
    if of_judgments.rows_retired and not of_judgments.rows_kept:
        raise UserError(
            f"{judgments}: none of the {of_judgments.rows_in:,} judgments is of a document of {documents} that passed "
            "validation; give the catalogue that was judged."
        )
    return {
        **{f"{split.dataset}_in": split.rows_in for split in splits},
        **{f"{split.dataset}_kept": split.rows_kept for split in splits},
        **{f"{split.dataset}_quarantined": split.rows_quarantined for split in splits},
        "judgments_retired": of_judgments.rows_retired,
        "impressions_retired": sum(split.rows_retired for split in splits) - of_judgments.rows_retired,
        "rules_broken": sum(count > 0 for split in splits for count in split.violations.values()),
        "warnings": len(failed),
        "not_checked": sum(check.value is None for check in checks),
    }


def _flag(engine: BaseBackend, window: Path, documents: Path, judgments: Path, settings: Settings) -> list[Flagged]:
    cycle = settings.cycle
    catalogue = flag_documents(engine, contracts.scan(engine, documents, contracts.DOCUMENTS), cycle).held(engine)
    impressions = contracts.scan(engine, window / "impressions", contracts.IMPRESSIONS)
    judged = contracts.scan(engine, judgments, contracts.JUDGMENTS)
    return [
        catalogue,
        flag_impressions(
            engine, impressions, catalogue.kept, cycle, settings.stream.max_position, removed(engine, documents)
        ).held(engine),
        flag_judgments(engine, judged, catalogue.kept, cycle).held(engine),
    ]


#: Within a dataset that is written, rows are sorted by these columns.
_ORDER = {"documents": ("doc_id",), "impressions": ("event_time", "session_id", "position")}


def _split(engine: BaseBackend, flagged: Flagged, out: Path) -> Split:
    """Write the rows of ``flagged`` that broke no rule, and count the others by rule."""
    table, dataset = flagged.table, flagged.dataset
    sums = {rule: table[name].sum().fill_null(0) for rule, name in flagged.columns.items()}
    counts = table.aggregate(rows=table.count(), **sums).to_pyarrow().to_pylist()[0]
    rows_in = counts.pop("rows")
    if dataset in _ORDER:
        rows_kept = engines.write(engine, flagged.kept, out / dataset, flagged.schema, _ORDER[dataset])
    else:
        rows_kept = flagged.kept.count().to_pyarrow().as_py()
    rows_retired = flagged.sound.count().to_pyarrow().as_py() - rows_kept if flagged.retired else 0
    return Split(dataset, rows_in, rows_kept, rows_retired, counts)


def _earlier(profiles: Path, settings: Settings) -> pa.Table:
    if not profiles.exists():
        return contracts.PROFILES.empty_table()
    return profile.before(contracts.read(profiles, contracts.PROFILES), settings.cycle)


def _checks(split: Split, settings: Settings) -> list[Check]:
    """Rules of rows only warn; their sum can stop the run."""
    dataset, rows_in, limits = split.dataset, split.rows_in, settings.validation
    checks = [
        Check(
            dataset=dataset,
            rule=rule,
            severity="warning",
            value=violations / rows_in if rows_in else 0.0,
            finding=f"{violations:,} of {rows_in:,}",
            high=0.0,
            violations=violations,
        )
        for rule, violations in split.violations.items()
    ]
    worst = max(split.violations, key=lambda rule: split.violations[rule])
    most = f", most by {worst!r} ({split.violations[worst]:,} rows)" if split.violations[worst] else ""
    share = split.rows_quarantined / rows_in if rows_in else 0.0
    checks.append(
        Check(
            dataset=dataset,
            rule="rows in quarantine",
            severity="error",
            value=share,
            finding=f"{split.rows_quarantined:,} of {rows_in:,} {dataset} ({share:.1%}) broke a rule{most}",
            high=0.0 if dataset == "judgments" else limits.max_quarantined_share,
            setting="" if dataset == "judgments" else "max_quarantined_share",
            violations=split.rows_quarantined,
        )
    )
    if dataset == "judgments" or split.rows_retired:
        checks.append(_retired(split, limits))
    if dataset == "impressions":
        checks.append(
            Check(
                dataset=dataset,
                rule="impressions kept",
                severity="error",
                value=split.rows_kept,
                finding=f"{split.rows_kept:,} of {rows_in:,} impressions are left{most}",
                low=limits.min_impressions,
                setting="min_impressions",
            )
        )
    return checks


def _retired(split: Split, limits: ValidationSettings) -> Check:
    of_judgments = split.dataset == "judgments"
    told = f"{split.rows_retired:,} of {split.rows_in:,} {split.dataset} are of documents that are gone" + (
        " or in quarantine" if of_judgments else " from the catalogue"
    )
    return Check(
        dataset=split.dataset,
        rule=f"retired {split.dataset}",
        severity="warning",
        value=split.rows_retired / split.rows_in if split.rows_in else 0.0,
        finding=f"{told}; {'they stay in the state, and ' if of_judgments else ''}no step uses them",
        high=limits.max_retired_share,
        setting="max_retired_share",
    )


def _types(flagged: Flagged, path: Path) -> Check:
    """Say which columns were read as another type than the one they are stored in."""
    cast = contracts.other_types(path, flagged.schema)
    told = [f"{name} is {found} and is read as {wanted}" for name, (found, wanted) in cast.items()]
    return Check(
        dataset=flagged.dataset,
        rule="columns of another type",
        severity="warning",
        value=len(cast),
        finding=", ".join(told) or "all are of the contract's types",
        high=0.0,
    )


def _summary(splits: Sequence[Split], checks: Sequence[Check], failed: Sequence[Check]) -> dict[str, object]:
    return {
        "datasets": {
            split.dataset: {
                "rows_in": split.rows_in,
                "rows_kept": split.rows_kept,
                "rows_quarantined": split.rows_quarantined,
                **({"rows_retired": split.rows_retired} if split.dataset == "judgments" or split.rows_retired else {}),
            }
            for split in splits
        },
        "profile": [
            {**asdict(check), "passed": None if check.value is None else check not in failed} for check in checks
        ],
    }


def _tell(failed: Sequence[Check], checks: Sequence[Check], out: Path) -> None:
    """Log what warns and what could not be checked; raise what stops."""
    if unchecked := [f"{check.dataset}: {check.rule} ({check.finding})" for check in checks if check.value is None]:
        _LOG.warning("serm: not checked: %s", ", ".join(unchecked))
    for check in failed:
        if check.severity == "error":
            limit, fix = f"{check.allowed} may", f"mend the {check.dataset}"
            if check.setting:
                verb = "asks for" if check.allowed.startswith("at least") else "allows"
                limit, fix = f"validation.{check.setting} {verb} {check.allowed}", f"{fix} or the limit"
            raise UserError(
                f"{check.dataset}, {check.rule}: {check.finding}; {limit}; "
                f"see {out / 'quarantine'} and {out / 'data_docs' / 'index.html'}, and {fix}."
            )
        _LOG.warning("serm: %s, %s: %s", check.dataset, check.rule, check.finding)
