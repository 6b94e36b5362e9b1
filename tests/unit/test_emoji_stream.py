"""The emoji world as a stream: an interrupted opening of a window picks up where it stopped."""

from __future__ import annotations

from pathlib import Path

from serm.layout import AFTER
from serm.workspace.progress import Progress
from serm.workspace.store import TEMPLATE
from serm.worlds.emoji import WINDOWS, EmojiWorld
from serm.worlds.emoji_stream import EmojiStream


def test_a_window_whose_log_is_there_is_opened_again_by_its_settings_alone(tmp_path: Path) -> None:
    text = (TEMPLATE / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "log/window=2").mkdir(parents=True)
    stream = EmojiStream(tmp_path, EmojiWorld(seed_queries=10, test_queries=10))
    stream.open_window(2)
    cycle = stream.settings().cycle
    assert (cycle.number, cycle.start, cycle.end) == (2, *WINDOWS[2])
    changed = set((tmp_path / "params.yaml").read_text().splitlines()) ^ set(text.splitlines())
    assert {line.split(":")[0].strip() for line in changed} == {"number", "start", "end"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "params.yaml"]


def test_a_world_says_whether_it_is_founded_and_which_cycles_are_past(tmp_path: Path) -> None:
    stream = EmojiStream(tmp_path, EmojiWorld(seed_queries=10, test_queries=10))
    assert not stream.is_founded
    Progress("cycle-0002", "promoted").write(tmp_path)
    assert (tmp_path / AFTER).is_file()
    assert stream.is_founded
    assert [stream.is_past(number) for number in (1, 2, 3)] == [True, True, False]
