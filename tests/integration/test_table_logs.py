"""Delta and Iceberg tables as a log: the current snapshot, only it, and what its files do not tell is refused."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from pyroaring import BitMap

from serm import contracts, stream
from serm.errors import UserError
from serm.settings import Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]
Ingest = Callable[..., pa.Table]
LOCALE = "z h/%é=x"  # as a partition it needs escapes in the files' paths


@pytest.fixture
def log(make_impressions: Make) -> pa.Table:
    """Impressions of four locales, one of which needs escapes; the optional columns of a log that has none."""
    table = make_impressions(searches=40)
    locale = pc.if_else(pc.equal(table["position"], 5), LOCALE, table["locale"])
    return table.set_column(4, table.schema.field("locale"), locale)


@pytest.fixture
def ingest(make_settings: MakeSettings, tmp_path: Path) -> Ingest:
    """Ingest a log and return the impressions, in an order of their own."""

    def run(path: Path, **sections: Any) -> pa.Table:
        figures = stream.ingest(path, tmp_path / "out", make_settings(**sections))
        kept = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)
        assert figures["rows_in"] == figures["rows_kept"] == kept.num_rows
        return in_order(kept)

    return run


def in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("query_id", "ascending"), ("position", "ascending")]).combine_chunks()


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    made = load_catalog("test", type="in-memory", warehouse=f"file://{tmp_path / 'warehouse'}")
    made.create_namespace("search")
    return made


def iceberg(catalog: Catalog, log: pa.Table, partition: str | None = None) -> Table:
    """An Iceberg table that held other rows first, and was overwritten with ``log`` in two commits."""
    table = catalog.create_table("search.log", schema=log.schema)
    if partition:
        with table.update_spec() as spec:
            spec.add_identity(partition)
    table.append(log[:7])
    table.overwrite(log[:100])
    table.append(log[100:])
    return table


def home(table: Table) -> Path:
    return Path(table.location().removeprefix("file://"))


@pytest.mark.parametrize("partition", [None, "locale"])
def test_of_an_overwritten_delta_table_the_current_rows_are_read(
    partition: str | None, log: pa.Table, ingest: Ingest, tmp_path: Path
) -> None:
    path = tmp_path / "delta table"
    write_deltalake(path, log[:7], partition_by=partition)
    write_deltalake(path, log[:100], mode="overwrite")
    write_deltalake(path, log[100:], mode="append")
    assert len(list(path.rglob("*.parquet"))) > len(DeltaTable(path).file_uris())
    assert ingest(path) == in_order(log)
    DeltaTable(path).optimize.compact()
    assert ingest(path) == in_order(log)


def test_rows_deleted_from_a_delta_table_are_gone(log: pa.Table, ingest: Ingest, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "delta", log)
    DeltaTable(tmp_path / "delta").delete("position = 1")
    assert ingest(tmp_path / "delta") == in_order(log.filter(pc.greater(log["position"], 1)))


def test_a_column_that_came_later_is_null_in_older_rows(
    log: pa.Table, catalog: Catalog, ingest: Ingest, tmp_path: Path
) -> None:
    expected = log.set_column(
        log.schema.get_field_index("variant"),
        log.schema.field("variant"),
        pa.array([None] * 100 + ["b"] * 100, pa.string()),
    )
    older, newer = expected[:100].drop_columns("variant"), expected[100:]
    write_deltalake(tmp_path / "delta", older)
    write_deltalake(tmp_path / "delta", newer, mode="append", schema_mode="merge")
    assert ingest(tmp_path / "delta") == in_order(expected)
    table = catalog.create_table("search.log", schema=older.schema)
    table.append(older)
    with table.update_schema() as schema:
        schema.union_by_name(newer.schema)
    assert ingest(home(table)) == in_order(older.append_column(log.schema.field("variant"), pa.nulls(100, pa.string())))
    table.append(newer)
    assert ingest(home(table)) == in_order(expected)


@pytest.mark.parametrize("partition", [None, "locale"])
def test_of_an_overwritten_iceberg_table_the_current_rows_are_read(
    partition: str | None, log: pa.Table, catalog: Catalog, ingest: Ingest
) -> None:
    table = iceberg(catalog, log, partition)
    assert len(list(home(table).rglob("*.parquet"))) > len(list(table.scan().plan_files()))
    assert ingest(home(table)) == in_order(log)
    earlier = sorted((home(table) / "metadata").glob("*.metadata.json"))[-2]
    assert ingest(earlier).num_rows == 100
    (home(table) / "metadata/version-hint.text").write_text(earlier.name.removesuffix(".metadata.json"))
    assert ingest(home(table)).num_rows == 100


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_missing_file_is_told(kind: str, log: pa.Table, catalog: Catalog, ingest: Ingest, tmp_path: Path) -> None:
    if kind == "delta":
        write_deltalake(tmp_path / "table", log)
    path = home(iceberg(catalog, log)) if kind == "iceberg" else tmp_path / "table"
    for file in path.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(UserError, match=r"its data file .* is not there"):
        ingest(path)


@pytest.mark.parametrize("name", ["shop[1]", "a*", "a?b", "a#b", "a b", "é", "it's", "locale=xx"])
def test_a_table_s_path_is_literal(name: str, log: pa.Table, ingest: Ingest, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", log)
    path = (tmp_path / "table").rename(tmp_path / name)
    assert ingest(path) == in_order(log)


@pytest.mark.parametrize(("name", "other"), [("a%41b", "aAb"), ("a\\b", "a/b")])
def test_a_path_that_the_library_takes_for_another_is_refused(
    name: str, other: str, log: pa.Table, ingest: Ingest, tmp_path: Path
) -> None:
    write_deltalake(tmp_path / other, log)
    shutil.copytree(tmp_path / other, tmp_path / name)
    with pytest.raises(UserError, match="a Delta table's path may have no"):
        ingest(tmp_path / name)


DAMAGES = {"empty": lambda _: b"", "cut": lambda data: data[: len(data) // 2], "noise": lambda _: bytes(range(256))}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["_delta_log/*.json", "*.parquet"])
def test_a_damaged_delta_table_is_one_sentence(
    file: str, damage: str, log: pa.Table, ingest: Ingest, tmp_path: Path
) -> None:
    write_deltalake(tmp_path / "delta", log)
    (path,) = (tmp_path / "delta").glob(file)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(
        UserError, match=r"delta.*: not (a readable Delta table|readable as Parquet) \(.*\); "
    ) as raised:
        ingest(tmp_path / "delta")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
@pytest.mark.parametrize("file", ["*.metadata.json", "snap-*.avro", "*-m0.avro", "version-hint.text"])
def test_a_damaged_iceberg_table_is_one_sentence(
    file: str, damage: str, log: pa.Table, catalog: Catalog, ingest: Ingest
) -> None:
    table = iceberg(catalog, log)
    hint = home(table) / "metadata/version-hint.text"
    hint.write_text(Path(table.metadata_location).name.removesuffix(".metadata.json"))
    snapshot = table.current_snapshot()
    manifests = [Path(one.manifest_path.removeprefix("file://")) for one in snapshot.manifests(table.io)]
    path = {
        "*.metadata.json": Path(table.metadata_location.removeprefix("file://")),
        "snap-*.avro": Path(snapshot.manifest_list.removeprefix("file://")),
        "*-m0.avro": manifests[0],
        "version-hint.text": hint,
    }[file]
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(DAMAGES[damage](data))
    elif path == hint:
        assert ingest(home(table)) == in_order(log)
        return
    with pytest.raises(UserError, match=r": not a readable Iceberg (table|metadata file) \(") as raised:
        ingest(home(table))
    assert "\n" not in str(raised.value)


def test_a_table_has_no_order_of_arrival(log: pa.Table, ingest: Ingest, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "delta", log)
    with pytest.raises(UserError, match=r"leave stream\.allowed_lateness_hours out"):
        ingest(tmp_path / "delta", stream={"allowed_lateness_hours": 1})


def test_an_iceberg_column_that_was_renamed_is_refused(log: pa.Table, catalog: Catalog, ingest: Ingest) -> None:
    renamed = log.rename_columns({"query": "text", "variant": "query", "model_version": "variant"})
    table = iceberg(catalog, renamed)
    with table.update_schema() as schema:
        schema.rename_column("query", "old")
    with table.update_schema() as schema:
        schema.rename_column("text", "query")
    with pytest.raises(UserError, match="column 'query' was renamed or made anew"):
        ingest(home(table))


def test_an_iceberg_table_with_delete_files_is_refused(log: pa.Table, catalog: Catalog, ingest: Ingest) -> None:
    table = iceberg(catalog, log)
    delete_first_row(table)
    with pytest.raises(UserError, match="the Iceberg table has delete files"):
        ingest(home(table))


def edit_delta_log(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the actions of the first commit, as a writer with other features would have written them."""
    (commit,) = (path / "_delta_log").glob("*.json")
    actions = [json.loads(line) for line in commit.read_text().splitlines()]
    for action in actions:
        change(action)
    commit.write_text("".join(json.dumps(action) + "\n" for action in actions))


def with_features(action: dict[str, Any], *features: str) -> None:
    if "protocol" in action:
        action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7}
        action["protocol"] |= {"readerFeatures": list(features), "writerFeatures": list(features)}


def with_deletion_vector(action: dict[str, Any]) -> None:
    with_features(action, "deletionVectors")
    if "add" in action:
        # The Delta protocol's portable RoaringBitmapArray of one bitmap, inline in base 85.
        bitmap = struct.pack("<iqi", 1681511377, 1, 0) + BitMap([0]).serialize()
        bitmap += b"\0" * (-len(bitmap) % 4)
        action["add"]["deletionVector"] = {
            "storageType": "i",
            "pathOrInlineDv": z85(bitmap),
            "sizeInBytes": len(bitmap),
            "cardinality": 1,
        }


def z85(data: bytes) -> str:
    """ZeroMQ's base 85: Python's with another alphabet."""
    python = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    zeromq = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    return base64.b85encode(data).translate(bytes.maketrans(python, zeromq)).decode()


def with_column_mapping(action: dict[str, Any]) -> None:
    with_features(action, "columnMapping")
    if "metaData" in action:
        action["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
        schema = json.loads(action["metaData"]["schemaString"])
        for number, column in enumerate(schema["fields"], start=1):
            column["metadata"] = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": column["name"]}
        action["metaData"]["schemaString"] = json.dumps(schema)


@pytest.mark.parametrize(
    ("change", "words"),
    [(with_deletion_vector, "has deletion vectors"), (with_column_mapping, "maps its columns' names")],
)
def test_a_delta_table_whose_files_do_not_tell_its_rows_is_refused(
    change: Callable[[dict[str, Any]], None], words: str, log: pa.Table, ingest: Ingest, tmp_path: Path
) -> None:
    write_deltalake(tmp_path / "delta", log)
    edit_delta_log(tmp_path / "delta", change)
    with pytest.raises(UserError, match=words):
        ingest(tmp_path / "delta")


class DeletesWriter(ManifestWriterV2):
    """pyiceberg writes manifests of data files only; this one is of delete files."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def delete_first_row(table: Table) -> None:
    """Add a position delete to the table's current snapshot, as an engine that merges on read would."""
    snapshot, folder = table.current_snapshot(), home(table) / "metadata"
    data = next(iter(table.scan().plan_files())).file
    deletes = home(table) / "data/deletes.parquet"
    pq.write_table(pa.table({"file_path": [data.file_path], "pos": pa.array([0], pa.int64())}), deletes)
    file = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=f"file://{deletes}",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=deletes.stat().st_size,
    )
    output = table.io.new_output(f"file://{folder}/deletes.avro")
    with DeletesWriter(table.spec(), table.schema(), output, snapshot.snapshot_id, "null") as writer:
        writer.add_entry(
            ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=snapshot.snapshot_id, data_file=file)
        )
    manifests = [*snapshot.manifests(table.io), writer.to_manifest_file()]
    output = table.io.new_output(f"file://{folder}/list.avro")
    number = snapshot.sequence_number
    with write_manifest_list(2, output, snapshot.snapshot_id, None, number, "null") as lists:
        lists.add_manifests(manifests)
    metadata = json.loads(Path(table.metadata_location.removeprefix("file://")).read_text())
    for one in metadata["snapshots"]:
        if one["snapshot-id"] == snapshot.snapshot_id:
            one["manifest-list"] = f"file://{folder}/list.avro"
    (folder / "00099-deletes.metadata.json").write_text(json.dumps(metadata))
