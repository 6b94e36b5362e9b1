"""Damaged Parquet and a full disk: one sentence that names the file, no traceback, and the earlier state stays."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serm import atomic, contracts, stream
from serm.errors import UserError
from serm.settings import Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-3],
    "no footer": lambda data: data[:-8] + b"\0" * 8,
    "a footer that is too long": lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
    "a footer of nothing": lambda data: data[:-8] + b"\0\0\0\0PAR1",
    "a footer of noise": lambda data: data[:-200] + np.random.default_rng(0).bytes(192) + data[-8:],
    "text": lambda _: b"query,doc_id\n",
    "magic alone": lambda _: b"PAR1PAR1",
    "pages of zeros": lambda data: data[:4] + b"\0" * (len(data) // 2) + data[4 + len(data) // 2 :],
    "pages of noise": lambda data: (
        data[:4] + np.random.default_rng(0).bytes(len(data) // 2) + data[4 + len(data) // 2 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_is_named_and_what_was_there_stays(
    damage: str, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    atomic.write_text(tmp_path / "out/before.txt", "kept")
    (tmp_path / "log").mkdir()
    pq.write_table(make_impressions(searches=50), tmp_path / "log/a.parquet")
    bad = tmp_path / "log/b.parquet"
    bad.write_bytes(DAMAGES[damage]((tmp_path / "log/a.parquet").read_bytes()))
    for read in (
        lambda: stream.ingest(tmp_path / "log", tmp_path / "out", make_settings()),
        lambda: contracts.read(tmp_path / "log", contracts.IMPRESSIONS),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(str(bad))}: not readable as Parquet ") as raised:
            read()
        assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["before.txt"]


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("seed", range(15))
def test_flipped_bits_end_in_rows_or_in_one_sentence(
    seed: int, compression: str, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    """Parquet has no checksum that all writers set: what still reads is read."""
    log = tmp_path / "log/a.parquet"
    log.parent.mkdir()
    pq.write_table(make_impressions(searches=50), log, compression=compression)
    data, rng = bytearray(log.read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(4, len(data), 30):
        data[place] ^= 1 << rng.integers(8)
    log.write_bytes(data)
    for read in (
        lambda: stream.ingest(log, tmp_path / "out", make_settings()),
        lambda: contracts.read(log, contracts.IMPRESSIONS),
    ):
        try:
            read()
        except UserError as error:
            said = str(error)
        else:
            said = f"{log}: "
        assert said.startswith(f"{log}: ")


PROGRAM = "import sys; sys.argv[0] = 'serm'; from serm.cli import main; main()"
PARAMS = 'cycle: {number: 1, start: "2018-01-01T00:00:00Z", end: "2019-01-01T00:00:00Z"}\nengine: {threads: 1}\n'


def limited(size: int) -> Callable[[], None]:
    """No file of the process may be larger: each write beyond fails, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [0, 1000, 20_000])
def test_a_disk_that_is_full_ends_a_step_in_one_sentence(size: int, make_impressions: Make, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "log").mkdir()
    pq.write_table(make_impressions(searches=2000), tmp_path / "log/a.parquet")
    atomic.write_text(tmp_path / "cycle/ingest/before.txt", "kept")
    command = [sys.executable, "-c", PROGRAM, "ingest", "--log", "log"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120, preexec_fn=limited(size)
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert "File too large" in done.stderr
    assert [path.name for path in (tmp_path / "cycle").iterdir()] == ["ingest"]
    assert [path.name for path in (tmp_path / "cycle/ingest").iterdir()] == ["before.txt"]


def test_a_dataset_that_cannot_be_written_leaves_the_earlier_one(
    make_impressions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts.write(make_impressions(searches=1), tmp_path / "log", contracts.IMPRESSIONS)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(UserError, match="log: No space left on device; free some space"):
        contracts.write(make_impressions(searches=2), tmp_path / "log", contracts.IMPRESSIONS)
    assert contracts.read(tmp_path / "log", contracts.IMPRESSIONS).num_rows == 5


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied; allow it, or give another path"),
        (OSError(5, "Input/output error"), "Input/output error; look at the disk"),
    ],
)
def test_a_file_that_the_system_does_not_give_is_no_damaged_one(
    error: OSError, words: str, make_impressions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts.write(make_impressions(searches=1), tmp_path / "log", contracts.IMPRESSIONS)

    def refuse(_: str) -> None:  # root may read what has no permissions
        raise error

    monkeypatch.setattr(pa, "OSFile", refuse)
    with pytest.raises(UserError, match=f"log/part-0.parquet: {words}"):
        contracts.read(tmp_path / "log", contracts.IMPRESSIONS)
