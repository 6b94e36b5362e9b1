"""The transformer's query log: never waits, loses nothing silently, and a file is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("kserve", reason="pip install 'serm[serve]'")

from serm.errors import UserError
from serm.serving.transformer.querylog import QueryLog
from serm.settings.serving import TransformerSettings


def _numbers(folder: Path) -> list[int]:
    return [json.loads(line)["n"] for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_all_records_are_in_files_in_their_order(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "log", TransformerSettings(log_rotate_seconds=0.01))
    for number in range(300):
        assert log.add({"n": number})
        if number % 100 == 0:
            time.sleep(0.08)
    log.close()
    assert _numbers(tmp_path / "log") == list(range(300))
    assert len(list((tmp_path / "log").iterdir())) > 1
    assert (log.written, log.lost) == (300, 0)


def test_a_full_queue_refuses_at_once_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go, write = threading.Event(), os.write

    def slow(file: int, data: bytes) -> int:
        assert go.wait(60)
        return write(file, data)

    monkeypatch.setattr(os, "write", slow)
    log = QueryLog(tmp_path / "log", TransformerSettings(log_queue_mb=1))
    long = "x" * 200_000
    # The disk has not answered once meanwhile; at most a megabyte waits, and one has been taken to be written.
    taken = [log.add({"n": number, "query": long if number < 20 else ""}) for number in range(2000)]
    assert log._waiting.bytes <= 1_000_000
    go.set()
    log.close()
    assert 9 <= log.lost == taken.count(False)
    assert log._waiting.bytes == 0
    assert _numbers(tmp_path / "log") == [number for number, ok in enumerate(taken) if ok]
    assert "records of the query log are lost" in caplog.text


def test_a_full_disk_loses_whole_records_counts_them_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, full = os.write, threading.Event()

    def filling(file: int, data: bytes) -> int:
        if full.is_set():
            write(file, data[:3])  # as much as there was room for
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", filling)
    log = QueryLog(tmp_path / "log", TransformerSettings())

    def settled(count: int) -> None:
        while log.written + log.lost < count:
            time.sleep(0.005)

    log.add({"n": 0})
    settled(1)
    full.set()
    log.add({"n": 1})
    settled(2)
    full.clear()
    log.add({"n": 2})
    log.close()
    assert _numbers(tmp_path / "log") == [0, 2]
    assert (log.written, log.lost) == (2, 1)
    assert "No space left" in caplog.text


def test_what_a_killed_process_wrote_is_there_after_the_next_start(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from serm.serving.transformer.querylog import QueryLog
from serm.settings.serving import TransformerSettings
log = QueryLog(Path(sys.argv[1]), TransformerSettings())
for n in range(100): log.add({"n": n})
while log.written < 100: time.sleep(0.01)
print("written", flush=True)
time.sleep(600)
"""
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "written\n"
    (left,) = (tmp_path / "log").iterdir()
    assert left.name.startswith(".")  # nobody reads it yet
    QueryLog(tmp_path / "log", TransformerSettings()).close()
    assert left.exists()  # its process lives
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with left.open("ab") as file:
        file.write(b'{"n": 100, "cut')
    log = QueryLog(tmp_path / "log", TransformerSettings())
    log.add({"n": 101})
    log.close()
    assert sorted(_numbers(tmp_path / "log")) == [*range(100), 101]
    assert log.lost == 1


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is there, where a directory is wanted"):
        QueryLog(tmp_path / "file" / "log", TransformerSettings())


def test_a_folder_that_is_taken_away_costs_what_stood_there_and_is_made_again(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "served", TransformerSettings(log_rotate_seconds=0.5))
    assert log.add({"n": 1})
    _until(lambda: log.written == 1)
    shutil.rmtree(tmp_path / "served")
    _until(lambda: log.lost == 1)
    assert log.written == 0
    assert log.add({"n": 2})
    log.close()
    (file,) = (tmp_path / "served").iterdir()
    assert json.loads(file.read_text()) == {"n": 2}
    assert (log.written, log.lost) == (1, 1)
