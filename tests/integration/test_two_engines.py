"""What the steps compute in the engine gives the same rows on DuckDB and on Spark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import evaluation_world
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models

from serm import clicks, contracts, drift, parquet, stream, validation
from serm import engine as engines
from serm.errors import UserError
from serm.evaluation import pools
from serm.rollout import look
from serm.settings import ClickSettings, EngineSettings, RolloutSettings, Settings

pytest.importorskip("pyspark", reason="pip install 'serm[spark]'")
QUERIES = [
    "lamp",
    "Größe 42",
    "mail me@example.org",
    "4111 1111 1111 1111",
    "+49 151 23456789",
    "978030640615700",
    None,
]
VALIDATED = {
    "documents": contracts.DOCUMENTS,
    "impressions": contracts.IMPRESSIONS,
    "quarantine": contracts.QUARANTINE,
    "profiles": contracts.PROFILES,
}
EARLIER = pa.Table.from_pylist(
    [
        {"cycle": 0, "start": datetime(2017, 1, 1, tzinfo=UTC), "end": datetime(2018, 1, 1, tzinfo=UTC)}
        | {"dataset": dataset, "locale": "en", "rows": 100}
        for dataset in ("documents", "impressions", "judgments")
    ],
    contracts.PROFILES,
)
LOG = {"stream": {"allowed_lateness_hours": 24 * 30, "min_query_users": 3}}

#: To compile a plan of a few rows takes longer than to interpret it, and to plan it anew after each stage too.
DEFAULTS = "spark.sql.adaptive.enabled false\nspark.sql.codegen.wholeStage false\n"


@pytest.fixture(scope="module")
def _spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One session for all tests: each start takes seconds."""
    conf = tmp_path_factory.mktemp("conf")
    (conf / "spark-defaults.conf").write_text(DEFAULTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", str(conf))
        with engines.spark(EngineSettings(kind="spark", threads=1, memory_gb=1)):
            yield


@pytest.fixture
def parquet_log(make_impressions: Callable[..., pa.Table], tmp_path: Path) -> Path:
    """Two deliveries with what a real log has: personal queries, repeated rows, late rows, rows without a session."""
    rows = make_impressions(searches=80).to_pylist()
    for number, row in enumerate(rows):
        row["query"] = QUERIES[number % len(QUERIES)] if number % 3 == 0 else row["query"]
        row["session_id"] = None if number % 5 == 0 else row["session_id"]
    rows[3]["event_time"] -= timedelta(days=400)
    nullable = pa.schema([field.with_nullable(True) for field in contracts.IMPRESSIONS])
    table = pa.Table.from_pylist(rows, nullable)
    (tmp_path / "log").mkdir()
    pq.write_table(pa.concat_tables([table[200:], table[210:230]]), tmp_path / "log/1.parquet")
    pq.write_table(table[:250], tmp_path / "log/2.parquet")
    return tmp_path / "log"


@pytest.fixture
def ubi_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Searches of a few users, with clicks, dwell, results without impression events, and sessions to be made."""
    monkeypatch.setenv("SERM_USER_KEY", "a secret of the tests")
    lines = []
    for n in range(60):
        head = {"query_id": f"q{n // 4}", "client_id": f"ann{n % 3}", "timestamp": 1520157600000 + n * 400_123}
        lines.append({**head, "user_query": f"word{n // 4}"})
        what = {"object": {"object_id": f"d{n % 7}"}, "position": {"ordinal": n % 7}}
        action = ("impression", "click", "dismiss")[n % 3]
        lines.append({**head, "action_name": action, "event_attributes": what})
        results = {**head, "query_id": f"r{n}", "timestamp": head["timestamp"] + 1000}
        lines.append(
            {**results, "user_query": "rug", "query_response_hit_ids": [f"d{(n + at) % 9}" for at in range(5)]}
        )
        bought = {"object": {"object_id": f"d{(n + 2) % 9}"}}
        lines.append({**results, "action_name": "purchase", "event_attributes": bought})
    (tmp_path / "log.ndjson").write_text("\n".join(map(json.dumps, lines)) + "\n{bad\n")
    return tmp_path / "log.ndjson"


@pytest.mark.usefixtures("_spark")
@pytest.mark.parametrize(
    ("log", "sections", "datasets"),
    [
        ("parquet_log", LOG, {"impressions": contracts.IMPRESSIONS, "late": contracts.IMPRESSIONS}),
        ("ubi_log", {}, {"impressions": contracts.IMPRESSIONS, "bad_lines": contracts.BAD_LINES}),
    ],
)
def test_both_engines_give_the_same_rows(
    log: str,
    sections: dict,
    datasets: dict[str, pa.Schema],
    make_settings: Callable[..., Settings],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    path = request.getfixturevalue(log)
    for kind in ("duckdb", "spark"):
        stream.ingest(path, tmp_path / kind, make_settings(engine={"kind": kind, "threads": 1}, **sections))
    one, two = ((tmp_path / kind / "ingest.json").read_text() for kind in ("duckdb", "spark"))
    assert one == two
    for name, schema in datasets.items():
        rows, others = (rows_of(tmp_path / kind / name, schema) for kind in ("duckdb", "spark"))
        assert len(rows) > 0
        assert rows == others


def rows_of(dataset: Path, schema: pa.Schema) -> list[dict]:
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    return pa.concat_tables(pq.read_table(file).cast(nullable) for file in parquet.parquet_files(dataset)).to_pylist()


@pytest.mark.usefixtures("_spark")
def test_both_engines_read_what_others_wrote_alike(
    make_impressions: Callable[..., pa.Table], make_documents: Callable[[], pa.Table], tmp_path: Path
) -> None:
    """Names that are no patterns, partitions of the contract's types, pandas' and Spark's times, files that differ."""
    table, log = make_impressions(searches=8), tmp_path / "shop[1]/query=evil/log"
    files = {
        "locale=no/a.parquet": table[:10].drop_columns(["locale", "variant"]),
        "locale=2e3/b.parquet": with_type(table[10:20].drop_columns("locale"), "event_time", pa.timestamp("ns", "UTC")),
        "c?*.parquet": with_type(with_type(table[20:30], "score", pa.null()), "position", pa.uint64()),
        "_temporary/0/d.parquet": table,
        "e.parquet": with_type(table[30:], "event_time", pa.timestamp("us")).append_column(
            "odd", pa.array([b"x"] * 10)
        ),
    }
    for name, part in files.items():
        (log / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, log / name, use_deprecated_int96_timestamps=name == "e.parquet")
    shapes = {
        "struct": pa.array([{"a": "x", "n": 1, "gone": None}, {"a": None, "n": 2, "gone": None}, None]),
        "map": pa.array([[("a", "x"), ("n", "1")], [("n", "2")], None], pa.map_(pa.string(), pa.string())),
        "numbers": pa.array([[("n", 1)], [("n", 2)], None], pa.map_(pa.string(), pa.int64())),
        "pairs": pa.array([[{"key": "a", "value": "x"}], [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}], []]),
        "lists": pa.array([[["a", "x"]], [], None]),
        "null": pa.nulls(3),
    }
    for number, (name, values) in enumerate(shapes.items()):
        part = make_documents()[number * 3 : number * 3 + 3]
        (tmp_path / "documents").mkdir(exist_ok=True)
        part = part.set_column(5, "attributes", values)
        pq.write_table(part, tmp_path / f"documents/{name}.parquet")
    found: list[tuple[pa.Table, list]] = []
    for kind in ("duckdb", "spark"):
        with engines.connect(EngineSettings(kind=kind, threads=1, memory_gb=1)) as engine:
            rows = contracts.scan(engine, log, contracts.IMPRESSIONS)
            engines.write(engine, rows, tmp_path / kind / "log", contracts.IMPRESSIONS, ("query_id", "position"))
            documents = contracts.scan(engine, tmp_path / "documents", contracts.DOCUMENTS)
            engines.write(engine, documents, tmp_path / kind / "documents", contracts.DOCUMENTS, ("doc_id",))
        pages = contracts.read(tmp_path / kind / "log", contracts.IMPRESSIONS)
        found.append((pages, rows_of(tmp_path / kind / "documents", contracts.DOCUMENTS)))
    assert found[0] == found[1]
    expected = table.set_column(4, "locale", pa.array(["no"] * 10 + ["2e3"] * 10 + table["locale"][20:].to_pylist()))
    expected = expected.set_column(
        table.schema.get_field_index("score"),
        "score",
        pa.array(score if not 20 <= n < 30 else None for n, score in enumerate(expected["score"].to_pylist())),
    )
    assert (
        found[0][0].to_pylist() == expected.sort_by([("query_id", "ascending"), ("position", "ascending")]).to_pylist()
    )
    attributes = {row["doc_id"]: row["attributes"] for row in found[0][1]}
    assert attributes["d0"] == attributes["d3"] == [("a", "x"), ("n", "1")]
    assert [attributes[f"d{n}"] for n in (1, 2, 9, 10, 11, 12, 13)] == [
        [("n", "2")], [], [("a", "x")], None, [], [("a", "x")], [],
    ]  # fmt: skip


@pytest.mark.usefixtures("_spark")
@pytest.mark.parametrize("kind", ["duckdb", "spark"])
def test_both_engines_name_a_damaged_file(
    kind: str, make_impressions: Callable[..., pa.Table], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Its footer is whole, so that only the engine meets the noise in its pages."""
    (tmp_path / "log[1]").mkdir()
    for name in ("a", "b", "c"):
        pq.write_table(make_impressions(searches=50), tmp_path / f"log[1]/{name}.parquet")
    bad = tmp_path / "log[1]/b.parquet"
    data = bad.read_bytes()
    bad.write_bytes(data[:4] + bytes(range(256)) * 8 + data[4 + 256 * 8 :])
    with pytest.raises(UserError, match=r"^/[^ ]*/log\[1\]/b\.parquet: not readable as Parquet \(") as raised:
        stream.ingest(tmp_path / "log[1]", tmp_path / "out", make_settings(engine={"kind": kind, "threads": 1}))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def with_type(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    values = pa.nulls(table.num_rows) if kind == pa.null() else table[name].cast(kind)
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.usefixtures("_spark")
def test_both_engines_validate_alike(
    parquet_log: Path,
    make_documents: Callable[[], pa.Table],
    make_judgments: Callable[[], pa.Table],
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    """Rows, profiles and all statistics: the rules' counts, freshness, volume and locale mix."""
    contracts.write(make_documents(), tmp_path / "documents", contracts.DOCUMENTS)
    judged = make_judgments()
    soft = [[0.1, 0.2, 0.3, 0.4]] + [None] * (judged.num_rows - 1)
    judged = judged.set_column(
        judged.column_names.index("distribution"), "distribution", pa.array(soft, pa.list_(pa.float64()))
    )
    contracts.write(judged, tmp_path / "judgments", contracts.JUDGMENTS)
    lenient = {"max_quarantined_share": 1.0, "min_impressions": 1}
    stream.ingest(parquet_log, tmp_path / "window", make_settings())
    contracts.write(EARLIER, tmp_path / "profiles", contracts.PROFILES)
    window, documents, judgments, profiles = (
        tmp_path / name for name in ("window", "documents", "judgments", "profiles")
    )
    for kind in ("duckdb", "spark"):
        params = make_settings(engine={"kind": kind, "threads": 1}, validation=lenient)
        validation.validate(window, documents, judgments, profiles, tmp_path / kind, params)
    one, two = (json.loads((tmp_path / kind / "validate.json").read_text()) for kind in ("duckdb", "spark"))
    assert one["datasets"]["impressions"]["rows_quarantined"] > 0
    assert all(check["value"] is not None for check in one["profile"])
    assert one == two
    for name, schema in VALIDATED.items():
        rows, others = (rows_of(tmp_path / kind / name, schema) for kind in ("duckdb", "spark"))
        assert len(rows) > 0
        assert rows == others


@pytest.mark.usefixtures("_spark")
def test_both_engines_see_the_same_drift(
    make_impressions: Callable[..., pa.Table],
    make_documents: Callable[[], pa.Table],
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    """The samples that they draw, what they count, and so each test and Evidently's page."""
    contracts.write(make_impressions(seed=1), tmp_path / "reference", contracts.IMPRESSIONS)
    contracts.write(make_impressions(seed=2), tmp_path / "validated/impressions", contracts.IMPRESSIONS)
    contracts.write(make_documents(), tmp_path / "validated/documents", contracts.DOCUMENTS)
    tiny_models.save(tmp_path / "champion", tmp_path / "base", seed=1)
    before, windows, validated, champion = (
        tmp_path / name for name in ("reference", "windows", "validated", "champion")
    )
    few = {"sample_users": 30, "searches_a_user": 3, "sample_documents": 100, "sample_searches": 100}
    for kind in ("duckdb", "spark"):
        params = make_settings(drift=few | {"permutations": 499}, engine={"kind": kind, "threads": 1})
        drift.drift(before, windows, validated, champion, tmp_path / kind, params)
    report = json.loads((tmp_path / "spark/drift.json").read_text())
    assert report["windows"][-1] == {"cycle": 1, "users": 30, "searches": 90}
    assert report["tests"][-1]["name"] == "catalogue"
    for file in ("drift.json", "report.json", "snapshot.json"):
        assert (tmp_path / "duckdb" / file).read_bytes() == (tmp_path / "spark" / file).read_bytes()
    for name, schema in (("impressions", contracts.SAMPLES), ("catalogue", contracts.CATALOGUES)):
        rows, others = (rows_of(tmp_path / kind / "windows" / name, schema) for kind in ("duckdb", "spark"))
        assert len(rows) > 0
        assert rows == others


@pytest.mark.usefixtures("_spark")
def test_both_engines_give_the_same_click_statistics_and_estimates(
    make_impressions: Callable[..., pa.Table], tmp_path: Path
) -> None:
    log = make_impressions(searches=300, queries=5)
    gaps = np.ones(len(log), bool)
    gaps[7::31] = False
    contracts.write(log.filter(pa.array(gaps)), tmp_path / "log", contracts.IMPRESSIONS)
    fitted: dict[str, clicks.Estimates] = {}
    for kind in ("duckdb", "spark"):
        with engines.connect(EngineSettings(kind=kind, threads=1, memory_gb=1)) as engine:
            impressions = contracts.scan(engine, tmp_path / "log", contracts.IMPRESSIONS)
            counts = engines.hold(engine, "counts", clicks.count(impressions))
            numbered = clicks.number(impressions, counts)
            fitted[kind] = clicks.fit(numbered, clicks.ClickCounts.read(counts), ClickSettings())
    one, two = fitted["duckdb"], fitted["spark"]
    assert one.summary["held_out"]["dbn"]["impressions"] > 100
    # Equal to the last bit: the pages came in the same order.
    assert one.summary == two.summary
    assert (one.relevance == two.relevance).all()


#: A process of its own: a Spark Connect session and a local one cannot be in one.
PROGRAM = """
import sys
from pathlib import Path
from serm import settings, stream, validation

folder, params = Path(sys.argv[1]), settings.load(Path(sys.argv[2]))
stream.ingest(folder / "log", folder / "connect/ingest", params)
inputs = (folder / name for name in ("connect/ingest", "documents", "judgments", "profiles"))
validation.validate(*inputs, folder / "connect/validate", params)
"""


def test_a_spark_connect_server_gives_the_same_rows(
    parquet_log: Path,
    make_documents: Callable[[], pa.Table],
    make_judgments: Callable[[], pa.Table],
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    contracts.write(make_documents(), tmp_path / "documents", contracts.DOCUMENTS)
    contracts.write(make_judgments(), tmp_path / "judgments", contracts.JUDGMENTS)
    params = make_settings(validation={"max_quarantined_share": 1.0, "min_impressions": 1})
    stream.ingest(parquet_log, tmp_path / "duckdb/ingest", params)
    names = ("duckdb/ingest", "documents", "judgments", "profiles")
    window, documents, judgments, profiles = (tmp_path / name for name in names)
    validation.validate(window, documents, judgments, profiles, tmp_path / "duckdb/validate", params)
    # local[1] in the place of sc://...: pyspark starts the server itself, with these settings.
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/spark-defaults.conf").write_text(
        "spark.sql.shuffle.partitions 1\nspark.ui.enabled false\nspark.driver.memory 1g\n"
    )
    remote = params.model_copy(update={"engine": EngineSettings(kind="spark", remote="local[1]")})
    (tmp_path / "params.yaml").write_text(remote.model_dump_json())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / "params.yaml")]
    environment = os.environ | {"SPARK_CONF_DIR": str(tmp_path / "conf")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    for file in ("ingest/ingest.json", "validate/validate.json"):
        one, two = (json.loads((tmp_path / kind / file).read_text()) for kind in ("duckdb", "connect"))
        assert one == two
    for name, schema in VALIDATED.items():
        rows, others = (rows_of(tmp_path / kind / "validate" / name, schema) for kind in ("duckdb", "connect"))
        assert len(rows) > 0
        assert rows == others


@pytest.mark.usefixtures("_spark")
def test_both_engines_slice_the_test_queries_alike(tmp_path: Path) -> None:
    evaluation_world.write(tmp_path)
    asked = [(f"title q{query}", locale) for query in range(9) for locale in ("de", "ja") for _ in range(query + 1)]
    evaluation_world.searches(tmp_path / "validated" / "impressions", asked)
    found = []
    for kind in ("duckdb", "spark"):
        settings = evaluation_world.settings()
        settings = settings.model_copy(update={"engine": EngineSettings(kind=kind, threads=1)})
        found.append(
            pools.read_pools(tmp_path / "tests", tmp_path / "validated", tmp_path / "reference", settings).pairs
        )
    assert set(found[0]["traffic"].to_pylist()) == {"head", "torso", "tail", "unseen"}
    assert found[0].equals(found[1])


@pytest.mark.usefixtures("_spark")
def test_a_rollouts_look_sees_the_same_users_and_numbers(
    make_impressions: Callable[..., pa.Table], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    window = make_settings().cycle
    log = make_impressions(searches=200)
    user = log["user_id"].to_pandas().str[1:].astype(int)
    variant = pa.array(np.array(["challenger", "control", "champion"])[user % 3])
    log = log.set_column(log.schema.get_field_index("variant"), "variant", variant)
    contracts.write(log, tmp_path / "log", contracts.IMPRESSIONS)
    span = window.end - window.start
    stages = [window.start + span / 4, window.start + span / 2]
    settings = RolloutSettings(
        primary=("change_query", "retention_7"),
        guardrails={},
        signals=(),
        min_users=2,
        winsorise=0.9,
        change_query_seconds=1e6,
    )
    one, two = (
        look.read(
            tmp_path / "log", stages, window.end - timedelta(hours=1), settings, EngineSettings(kind=kind, memory_gb=1)
        )
        for kind in ("duckdb", "spark")
    )
    assert (one.users, one.crossed) == (two.users, two.crossed)
    assert sum(map(sum, one.users)) > 25
    assert set(one.estimates) == set(two.estimates) == set(settings.metrics)
    assert set(one.segments) == set(two.segments) != set()
    for name, found in one.estimates.items():
        other = two.estimates[name]
        values = (found.challenger, found.control, found.variance, found.explained)
        assert values == pytest.approx((other.challenger, other.control, other.variance, other.explained), abs=1e-9)
