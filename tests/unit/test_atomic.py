"""A write takes the place of what was there in one step: neither copy can be lost, and no reader finds nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from serm import atomic
from serm.errors import UserError


def write(path: Path, text: str) -> None:
    with atomic.replace_directory(path) as beside:
        for name in ("one", "two"):
            (beside / name).write_text(text)


def content(path: Path) -> str:
    texts = {file.read_text() for file in path.iterdir()}
    assert len(texts) == 1
    assert {file.name for file in path.iterdir()} == {"one", "two"}
    return texts.pop()


def no_exchange(*_: Path) -> None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.fixture(params=["exchange", "two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How two directories change places: by the kernel, or as on a file system that cannot."""
    if request.param == "two steps":
        monkeypatch.setattr(atomic, "_exchange", no_exchange)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_directory_takes_the_place_of_another_and_nothing_is_left(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        write(tmp_path / "out", text)
        assert content(tmp_path / "out") == text
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("failing", [{1}, {2}, {3}, {1, 2}, {2, 3}, {1, 2, 3}])
def test_whichever_rename_fails_the_earlier_copy_stays(
    failing: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", "earlier")
    renames, rename, exchange = [], Path.rename, atomic._exchange

    def once(*paths: Path) -> None:
        renames.append(paths)
        if len(renames) in failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def faulty_rename(path: Path, target: Path) -> Path:
        once(path, target)
        return rename(path, target)

    def faulty_exchange(one: Path, other: Path) -> None:
        if exchange is not no_exchange:
            once(one, other)
        exchange(one, other)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", faulty_rename)
        patched.setattr(atomic, "_exchange", faulty_exchange)
        try:
            write(tmp_path / "out", "later")
            done = True
        except UserError:
            done = False
    atomic.recover(tmp_path / "out")
    assert content(tmp_path / "out") == ("later" if done else "earlier")
    assert done == (not failing & set(range(1, len(renames) + 1)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_directory_that_was_set_aside_is_read_and_written_again(tmp_path: Path) -> None:
    write(tmp_path / "cycle/out", "earlier")
    (tmp_path / "cycle/out").rename(tmp_path / "cycle/.out.aside")
    atomic.recover(tmp_path / "cycle/out/one")
    assert content(tmp_path / "cycle/out") == "earlier"
    (tmp_path / "cycle/out").rename(tmp_path / "cycle/.out.aside")
    with pytest.raises(ZeroDivisionError), atomic.replace_directory(tmp_path / "cycle/out"):
        raise ZeroDivisionError
    assert content(tmp_path / "cycle/out") == "earlier"
    assert [path.name for path in (tmp_path / "cycle").iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no renameat2")
def test_readers_never_find_the_directory_missing(tmp_path: Path) -> None:
    write(tmp_path / "out", "0")
    missing, looks, stop = [], [0], threading.Event()

    def look() -> None:
        while not stop.is_set():
            looks[0] += 1
            if not (tmp_path / "out/one").exists():
                missing.append(looks[0])

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        write(tmp_path / "out", str(number))
    stop.set()
    reader.join()
    assert looks[0] > 200
    assert missing == []


WRITER = """
import errno, itertools, sys
from pathlib import Path
from serm import atomic

def no_exchange(*_):
    raise OSError(errno.EINVAL, "no exchange here")

if sys.argv[2] == "two steps":
    atomic._exchange = no_exchange
for number in itertools.count():
    with atomic.replace_directory(Path(sys.argv[1]) / "out") as beside:
        for name in ("one", "two"):
            (beside / name).write_text(str(number))
    atomic.write_text(Path(sys.argv[1]) / "file", str(number) * 1000)
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing_and_leaves_nothing(way: str, tmp_path: Path) -> None:
    """Killed 15 times at moments that differ: what is there is whole, and no older than what was said to be done."""
    for kill in range(15):
        command = [sys.executable, "-c", WRITER, str(tmp_path), way]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            done = int(writer.stdout.readline())
            time.sleep(kill * 0.0007)
            writer.send_signal(signal.SIGKILL)
            done = max([done, *map(int, writer.stdout.read().split("\n")[:-1])])
        atomic.recover(tmp_path / "out")
        assert int(content(tmp_path / "out")) >= done
        text = (tmp_path / "file").read_text()
        assert int(text[: len(text) // 1000]) * 1 >= done
        assert len(set(text[i : i + len(text) // 1000] for i in range(0, len(text), len(text) // 1000))) == 1
    write(tmp_path / "out", "last")
    atomic.write_text(tmp_path / "file", "last")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_what_a_living_writer_has_beside_is_left_alone(tmp_path: Path) -> None:
    with atomic.replace_directory(tmp_path / "out") as beside:
        (beside / "one").write_text("slow")
        (beside / "two").write_text("slow")
        write(tmp_path / "out", "quick")
        assert content(tmp_path / "out") == "quick"
    assert content(tmp_path / "out") == "slow"


def test_only_what_is_named_as_unfinished_is_taken_away(tmp_path: Path) -> None:
    kept = [".out.yaml", ".out.0123456.unfinished.txt", "out.01234567.unfinished", ".other.01234567.unfinished"]
    for name in (*kept, ".out.01234567.unfinished"):
        (tmp_path / name).write_text("a user's")
    write(tmp_path / "out", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "out"])


@pytest.mark.usefixtures("way")
def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "disk/out", "earlier")
    (tmp_path / "out").symlink_to(tmp_path / "disk/out")
    write(tmp_path / "out", "later")
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "disk/out") == "later"


def test_a_file_in_the_place_of_a_directory_is_not_taken_away(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: a file is there"):
        write(tmp_path / "out", "x")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("moment", ["fsync", "mkdtemp", "replace"])
def test_a_disk_s_fault_is_one_sentence_and_what_was_there_stays(
    moment: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", "earlier")
    atomic.write_text(tmp_path / "file", "earlier")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    place = {"fsync": (os, "fsync"), "mkdtemp": (tempfile, "mkdtemp"), "replace": (atomic, "_exchange")}[moment]
    with monkeypatch.context() as patched:
        patched.setattr(*place, fail)
        patched.setattr(Path, "replace", fail)
        for attempt in (lambda: write(tmp_path / "out", "x"), lambda: atomic.write_text(tmp_path / "file", "x")):
            with pytest.raises(UserError, match=os.strerror(number)) as raised:
                attempt()
            assert str(raised.value).startswith(str(tmp_path))
    assert content(tmp_path / "out") == (tmp_path / "file").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]
