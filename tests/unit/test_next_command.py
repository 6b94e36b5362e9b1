"""A command that is shown can be typed as it is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serm.cli import app
from serm.cli.options import command


def test_what_was_given_is_said_again_and_paths_are_one_word_each() -> None:
    told = command(
        "serm init W", log=Path("my logs/a'b"), title=None, body=["text", "more text"], published_at="", every=10.0
    )
    words = ["serm", "init", "W", "--log", "my logs/a'b", "--body", "text", "--body", "more text"]
    assert shlex.split(told) == [*words, "--published-at", "", "--every", "10"]


def test_the_command_after_a_bootstrap_reads_the_files_as_the_bootstrap_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serm.founding.bootstrap.bootstrap", lambda *_: {"to_review": 1, "notes": []})
    documents = tmp_path / "our products.jsonl"
    documents.write_text('{"sku": "1", "name": "Lamp", "market": "en"}\n')
    arguments = [str(tmp_path / "our judged"), f"--log={tmp_path / 'log'}", f"--documents={documents}"]
    options = ["--id", "sku", "--title", "name", "--locale", "market", "--every", "7", "--knowledge", "k w"]
    done = CliRunner().invoke(app, ["bootstrap", *arguments, *options])
    review, init = done.stdout.splitlines()[-2:]
    assert shlex.split(review)[-2:] == ["--out", str(tmp_path / "our judged" / "reviewed")]
    words = shlex.split(init)
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given == dict(zip(options[::2], options[1::2], strict=True)) | {
        "--log": str(tmp_path / "log"),
        "--documents": str(documents),
        "--judgments": str(tmp_path / "our judged"),
    }
