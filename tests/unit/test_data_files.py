"""Which files below a directory are read: all that hold data, no others, and by their literal names."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm import contracts, stream
from serm.errors import UserError
from serm.settings import Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]

#: What engines, copies and desktops leave beside a table's files.
LEFT = [
    "_temporary/0/task_1/part-0",
    "_temporary/0/_temporary/attempt_1/part-0",
    "_SUCCESS",
    "_delta_log.bak/00000",
    "_committed_4711",
    "_started_4711",
    "_metadata",
    "_common_metadata",
    ".part-0{}.crc",
    ".part-0{}.inprogress.4711",
    "._part-0",
    ".hive-staging_hive_1/part-0",
    ".ipynb_checkpoints/part-0",
    "day=1/_temporary/part-0",
    "day=1/.spark-staging-1/part-0",
    "part-0{}.tmp",
    "part-0{}.inprogress",
    "part-0{}._COPYING_",
    "part-0{}~",
    "day=1_$folder$",
]


def left(folder: Path, name: str, suffix: str) -> Path:
    """The path of what is left, with the data files' own suffix wherever it can have one."""
    path = folder / (name.format(suffix) if "{}" in name or name.endswith("$") else name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_what_an_engine_leaves_beside_a_log_is_not_read(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=4)
    (tmp_path / "log/day=1").mkdir(parents=True)
    pq.write_table(table[:12], tmp_path / "log/part-0.parquet")
    pq.write_table(table[12:], tmp_path / "log/day=1/part-0.parquet")
    for name in LEFT:
        pq.write_table(table, left(tmp_path / "log", name, ".parquet"))
        assert contracts.read(tmp_path / "log", contracts.IMPRESSIONS).num_rows == 20, name
    figures = stream.ingest(tmp_path / "log", tmp_path / "out", make_settings())
    assert figures["rows_in"] == figures["rows_kept"] == 20


def test_what_is_left_beside_a_ubi_log_is_not_read(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "a secret of the tests")
    (tmp_path / "log").mkdir()
    (tmp_path / "log/a.ndjson").write_text(ubi("q1"))
    for number, name in enumerate(LEFT):
        left(tmp_path / "log", name, ".ndjson").write_text(ubi(f"left {number}"))
        left(tmp_path / "log", name, ".parquet").write_text("no Parquet")
    stream.ingest(tmp_path / "log", tmp_path / "out", make_settings())
    assert contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)["doc_id"].to_pylist() == ["of q1"]


def ubi(query_id: str) -> str:
    head = {"query_id": query_id, "client_id": "ann", "timestamp": "2018-05-01T12:00:00Z"}
    what = {"object": {"object_id": f"of {query_id}"}, "position": {"ordinal": 0}}
    lines = [{**head, "user_query": "lamp"}, {**head, "action_name": "impression", "event_attributes": what}]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_a_root_may_have_any_name_and_a_partition_may_begin_with_an_underscore(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=4)
    for part in ("_day=1", "_day=2"):
        (tmp_path / "_staging/.log" / part).mkdir(parents=True)
        pq.write_table(table[:10] if part == "_day=1" else table[10:], tmp_path / "_staging/.log" / part / "0.parquet")
    assert stream.ingest(tmp_path / "_staging/.log", tmp_path / "out", make_settings())["rows_in"] == 20
    file = tmp_path / "_staging/.log/_day=1/0.parquet"
    file = file.rename(file.with_name("_one.parquet"))
    assert stream.ingest(file, tmp_path / "out", make_settings())["rows_in"] == 10


#: Two names of which the first, taken for a pattern, matches the second.
PATTERNS = {"shop[1]": "shop1", "a*": "ab", "a?c": "abc", "**": "a", "[!a]": "b", "{a,b}": "a", "a%41": "aA"}
PATTERNS |= {
    "it's": "its",
    'a"b': "ab",
    "a\\b": "ab",
    "a#b": "a",
    "a;b": "a",
    "a:b": "a",
    "a b": "a",
    "é☂": "e",
    "~": "a",
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_log_s_path_is_no_pattern(
    name: str, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    for folder, seed in ((PATTERNS[name], 1), (name, 2)):
        (tmp_path / folder).mkdir()
        pq.write_table(make_impressions(searches=4, seed=seed), tmp_path / folder / f"{folder}.parquet")
    stream.ingest(tmp_path / name, tmp_path / "out", make_settings())
    kept = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)
    assert {query_id[:3] for query_id in kept["query_id"].to_pylist()} == {"q2-"}
    assert contracts.read(tmp_path / name, contracts.IMPRESSIONS)["query_id"][0].as_py().startswith("q2-")


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20)


@settings(max_examples=examples(15))
@given(name=names.filter(lambda name: name not in (".", "..") and len(name.encode()) < 200))
def test_any_name_is_literal(
    name: str, make_impressions: Make, make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names") / name
    folder.mkdir()
    pq.write_table(make_impressions(searches=1), folder / "log.parquet")
    assert stream.ingest(folder, folder.parent.parent / "out", make_settings())["rows_in"] == 5


@pytest.mark.parametrize("parent", ["locale=xx", "query=evil", "variant=1", "position=x", "event_time=2018-01-01"])
def test_a_directory_above_the_log_is_no_partition(
    parent: str, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=4)
    (tmp_path / parent / "log").mkdir(parents=True)
    log = tmp_path / parent / "log/part-0.parquet"
    pq.write_table(table, log)
    for root in (log, log.parent):
        stream.ingest(root, tmp_path / parent / "out", make_settings())
        kept = contracts.read(tmp_path / parent / "out/impressions", contracts.IMPRESSIONS)
        assert kept.sort_by("query_id")["locale"] == table.sort_by("query_id")["locale"]
        assert set(kept["query"].to_pylist()) == set(table["query"].to_pylist())
        assert kept["variant"].null_count == 20


@pytest.mark.parametrize("suffix", [".parquet", ".ndjson"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "link to nothing", "link to itself"])
def test_a_file_that_would_hang_or_is_not_there_is_named(
    kind: str,
    suffix: str,
    make_impressions: Make,
    make_settings: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "a secret of the tests")
    log, odd = tmp_path / "log", tmp_path / f"log/odd{suffix}"
    log.mkdir()
    if suffix == ".parquet":
        pq.write_table(make_impressions(searches=1), log / "part-0.parquet")
    else:
        (log / "a.ndjson").write_text(ubi("q1"))
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        monkeypatch.chdir(log)  # a socket's path may have 107 bytes
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(odd.name)
    else:
        odd.symlink_to(odd if kind == "link to itself" else tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"odd{suffix}: (neither a file nor|cannot be read)"):
        stream.ingest(log, tmp_path / "out", make_settings())
    odd.rename(odd.with_suffix(".other"))
    assert stream.ingest(log, tmp_path / "out", make_settings())["rows_in"] > 0


def test_a_pipe_as_the_log_is_refused(make_settings: MakeSettings, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.parquet")
    with pytest.raises(UserError, match=r"log\.parquet: no Parquet files there"):
        stream.ingest(tmp_path / "log.parquet", tmp_path / "out", make_settings())


def test_a_directory_that_cannot_be_read_is_named(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log/closed").mkdir(parents=True)
    pq.write_table(make_impressions(searches=1), tmp_path / "log/part-0.parquet")
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may read what has no permissions
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"closed: cannot be read \(Permission denied\)"):
        stream.ingest(tmp_path / "log", tmp_path / "out", make_settings())


def test_a_name_that_is_not_utf8_is_refused(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    (tmp_path / "log").mkdir()
    pq.write_table(make_impressions(searches=1), tmp_path / "a.parquet")
    os.rename(tmp_path / "a.parquet", os.fsencode(tmp_path) + b"/log/\xff.parquet")  # noqa: PTH104
    with pytest.raises(UserError, match="the name is not UTF-8"):
        stream.ingest(tmp_path / "log", tmp_path / "out", make_settings())
