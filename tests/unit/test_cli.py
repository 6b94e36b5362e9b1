"""The command line: quick to start, one sentence for a user's mistake, JSON for machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serm import settings
from serm.errors import UserError

HEAVY = {"torch", "kfp", "pandas", "duckdb", "ibis", "pyarrow", "numpy", "evidently", "great_expectations", "kserve"}
PARAMS = 'cycle:\n  number: 1\n  start: "2017-01-01T00:00:00Z"\n  end: "2019-01-01T00:00:00Z"\n'


def serm(*arguments, cwd):
    program = "import sys; sys.argv[0] = 'serm'; from serm.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def one_sentence(done):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_starting_imports_nothing_heavy():
    script = "import sys, serm.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


def test_help_names_every_verb(tmp_path):
    done = serm("--help", cwd=tmp_path)
    assert done.returncode == 0
    for verb in ("evolve", "report", "doctor", "demo", "advance", "ingest", "validate", "drift", "mine", "annotate"):
        assert verb in done.stdout


def test_a_missing_settings_file(tmp_path):
    message = one_sentence(serm("ingest", cwd=tmp_path))
    assert "params.yaml" in message
    assert "--params" in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PARAMS + "mining:\n  budgte: 10\n", "mining.budgte"),
        (PARAMS + "mining:\n  budget: 0\n", "mining.budget"),
        (PARAMS.replace('"2019', '"2016'), "is not before end"),
        (PARAMS.replace('"', ""), "put quotes around"),
        (PARAMS + "mining: [\n", "not YAML"),
        ("- a\n", "expected sections"),
        ("", "expected sections"),
    ],
)
def test_a_bad_settings_file(tmp_path, text, complaint):
    (tmp_path / "params.yaml").write_text(text)
    assert complaint in one_sentence(serm("ingest", cwd=tmp_path))


def test_a_missing_log(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    message = one_sentence(serm("ingest", "--log", "nowhere", cwd=tmp_path))
    assert "nowhere" in message


def test_a_log_without_a_column(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "log").mkdir()
    pq.write_table(pa.table({"query": ["cat"]}), tmp_path / "log" / "part-0.parquet")
    message = one_sentence(serm("ingest", cwd=tmp_path))
    assert "'event_time'" in message
    assert "is missing" in message


def test_a_place_that_is_no_workspace(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    for verb in ("evolve", "publish", "advance"):
        assert "not a SERM workspace" in one_sentence(serm(verb, cwd=tmp_path))


def test_doctor_says_what_is_installed_to_machines(tmp_path):
    checks = json.loads(serm("doctor", "--json", cwd=tmp_path).stdout)
    parts = {check["part"]: check for check in checks}
    assert parts["torch"]["state"] == "ok"
    assert parts["git"]["found"].endswith("git")
    assert all(check["fix"] for check in checks if check["state"] != "ok")


def test_doctor_says_how_to_install_what_is_missing(monkeypatch):
    from serm.cli import doctor

    monkeypatch.setattr(doctor, "_NEEDS", {"train": ("no-such-package",)})
    (check,) = doctor._packages()
    assert check["state"] == "missing"
    assert check["fix"] == "pip install serm[train]"


def test_settings_keep_what_params_yaml_says():
    loaded = settings.parse(PARAMS + "mining:\n  budget: 7\n")
    assert loaded.mining.budget == 7
    assert loaded.cycle.name == "cycle-0001"


def test_the_project_s_own_settings_are_good():
    assert settings.load(Path(__file__).parents[2] / "params.yaml").cycle.number == 1


def test_a_time_needs_its_zone():
    with pytest.raises(UserError, match="time zone"):
        settings.parse(PARAMS.replace("Z", ""))


@pytest.fixture
def shop(tmp_path):
    """A workspace with a log, and a directory in it and one elsewhere to stand in."""
    root = tmp_path / "shop"
    (root / ".dvc").mkdir(parents=True)
    (root / "params.yaml").write_text(PARAMS)
    (root / "docs/deep").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "params.yaml").write_text(PARAMS.replace("number: 1", "number: 7"))
    return root


def test_every_verb_stands_at_the_root_of_the_workspace(shop, tmp_path):
    for cwd, given in ((shop / "docs/deep", ()), (tmp_path / "elsewhere", ("--workspace", "../shop"))):
        for verb in ("publish", "record", "advance", "evolve", "ingest", "report", "evidently"):
            message = one_sentence(serm(verb, *given, cwd=cwd))
            assert "not a SERM workspace" not in message
            assert "cycle-0007" not in message
            assert "elsewhere" not in message
    assert "no such directory" in one_sentence(serm("ingest", "--workspace", "nowhere", cwd=tmp_path))


def test_what_the_user_gives_is_relative_to_where_the_user_is(shop, tmp_path):
    message = one_sentence(serm("ingest", "--log", "mine", cwd=shop / "docs"))
    assert str(shop / "docs/mine") in message
    message = one_sentence(serm("advance", "--params", "nowhere.yaml", cwd=shop / "docs"))
    assert str(shop / "docs/nowhere.yaml") in message
    message = one_sentence(serm("export", "--model", "model", cwd=shop / "docs"))
    assert str(shop / "docs/model") in message


def test_every_verb_takes_the_workspace_and_writers_wait_for_each_other(shop):
    from typer.main import get_command

    from serm.cli import app
    from serm.workspace.lock import writing

    commands = get_command(app).commands
    verbs = {name: one for name, one in commands.items() if name not in ("doctor", "judgments", "review")}
    assert all(any("--workspace" in option.opts for option in one.params) for one in verbs.values())
    with writing(shop, "serm evolve"):
        lock = (shop / ".serm/lock").read_text()
        lock = lock.replace(f'"pid": {os.getpid()}', '"pid": 99999999')  # as if these were not its own children
        (shop / ".serm/lock").write_text(lock)
        for verb in ("publish", "ingest", "train", "evidently"):
            assert "`serm evolve` has been writing" in one_sentence(serm(verb, cwd=shop))
        assert "no cycle to report on" in one_sentence(serm("report", cwd=shop))
