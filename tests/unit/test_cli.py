"""The command line: quick to start, one sentence for a user's mistake, JSON for machines."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.core import TyperGroup

from serm import cli, settings
from serm.errors import UserError

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "kfp", "pandas", "duckdb", "ibis", "pyarrow", "numpy", "evidently", "great_expectations", "kserve"}
PARAMS = 'cycle:\n  number: 1\n  start: "2017-01-01T00:00:00Z"\n  end: "2019-01-01T00:00:00Z"\n'


def started(*arguments, cwd):
    """Run ``serm`` in a process of its own."""
    program = "import sys; sys.argv[0] = 'serm'; from serm.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def verbs():
    from typer.main import get_command

    from serm.cli import app

    return set(cast(TyperGroup, get_command(app)).commands)


PERSON = ("--locale=en", "--by=Ada", "--why=so")


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


def test_help_says_what_every_verb_does(serm, tmp_path):
    done = serm("--help", cwd=tmp_path)
    assert done.returncode == 0
    lines = [line.strip("│ ").split(maxsplit=1) for line in done.stdout.splitlines()]
    told = {line[0]: line[1] for line in lines if len(line) == 2}
    for verb in verbs():
        assert len(told[verb].split()) > 3, verb


def test_every_verb_stands_in_the_documentation_and_no_other_does():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    code = [
        code
        for page in pages
        for code in re.findall(r"```sh\n.*?```|(?<!`)`[^`\n]+`(?!`)", page.read_text(), re.DOTALL)
    ]
    named = {verb for one in code for verb in re.findall(r"(?:^|[\s`])serm ([a-z]+)", one)}
    assert named <= verbs() | {"popularity"}  # docs/add-a-step.md adds it
    assert verbs() <= named | {one.strip("`") for one in code}


def test_a_missing_settings_file(tmp_path):
    message = one_sentence(started("ingest", cwd=tmp_path))
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
        (PARAMS + "mining:\n  budget: 7\n  budget: 8\n", "line 7: not YAML that is read here: 'budget' is there twice"),
        (PARAMS + "mining: {}\nmining: {}\n", "line 6: not YAML that is read here: 'mining' is there twice"),
        (PARAMS + "a: &a [1]\nb: *a\n", "line 6: not YAML that is read here: an alias (*) is not read"),
        (PARAMS + "a: &a {b: *a}\n", "an alias (*) is not read"),
        (PARAMS + "a: " + "[" * 5000, "nested too deep"),
        (PARAMS + "mining:\n  budget: " + "9" * 5000 + "\n", "not YAML"),
        (PARAMS + "mining:\n  budget: 2018-13-45\n", "not YAML"),
        (PARAMS + "mining: !!python/object:os.system {}\n", "not YAML"),
        (PARAMS + "mining: \x00\n", "not YAML"),
        (PARAMS + "mining: 7\n", "mining: Input should be"),
        (PARAMS + "mining: [budget]\n", "mining: Input should be"),
        (PARAMS + "1: {}\n", "1: "),
        ("cycle: 7\n", "cycle: Input should be"),
        ("cycle: [number]\n", "cycle: Input should be"),
        (PARAMS + "engine:\n  threads: 100000\n", "engine.threads: Input should be less than or equal to 256"),
        (PARAMS + "engine:\n  memory_gb: 0.000001\n", "engine.memory_gb: Input should be greater than or equal"),
        (PARAMS + "evaluation:\n  gate:\n    min_gain: .nan\n", "evaluation.gate.min_gain: Input should be a finite"),
        (
            PARAMS + "evaluation:\n  gate:\n    max_size_mb: .inf\n",
            "evaluation.gate.max_size_mb: Input should be a finite",
        ),
        (PARAMS + "mining:\n  rise: {value: -.inf}\n", "mining.rise.value: Input should be a finite"),
        (PARAMS + "judging:\n  budget: {money: 'nan'}\n", "judging.budget.money: Input should be a finite"),
        (PARAMS + "mining:\n  budget: yes\n", "mining.budget: Value error, true is no value of it"),
        (PARAMS + "stream:\n  locale: no\n", "put quotes around it"),
        ("- a\n", "expected sections"),
        ("", "expected sections"),
    ],
)
def test_a_bad_settings_file(serm, tmp_path, text, complaint):
    (tmp_path / "params.yaml").write_text(text)
    assert complaint in one_sentence(serm("ingest", cwd=tmp_path))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (PARAMS.encode() + b"\n# caf\xe9\n", "line 6 is not UTF-8"),
        (PARAMS.encode("utf-16"), "line 1 is not UTF-8"),
        (b"#" * (1 << 20) + b"##", "larger than 1 MB"),
    ],
)
def test_a_settings_file_that_is_no_text_of_settings(tmp_path, data, complaint):
    (tmp_path / "params.yaml").write_bytes(data)
    with pytest.raises(UserError, match=complaint):
        settings.load(tmp_path / "params.yaml")


def test_a_byte_order_mark_before_the_settings_is_none_of_them(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + PARAMS.encode())
    assert settings.load(tmp_path / "params.yaml").cycle.number == 1


def test_settings_in_a_pipe_or_directory_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path):
        with pytest.raises(UserError, match="no regular file"):
            settings.load(path)


def test_every_number_of_the_settings_is_bounded():
    schema = settings.Settings.model_json_schema()
    open_ended, numbers = [], 0
    todo = [("", schema)]
    while todo:
        where, one = todo.pop()
        if isinstance(one, dict):
            todo += [(f"{where}.{key}", value) for key, value in one.items() if key not in ("default", "enum")]
            if one.get("type") in ("integer", "number"):
                numbers += 1
                bounds = [{"minimum", "exclusiveMinimum"} & one.keys(), {"maximum", "exclusiveMaximum"} & one.keys()]
                open_ended += [] if all(bounds) else [where]
        elif isinstance(one, list):
            todo += [(where, value) for value in one]
    assert numbers > 100
    assert open_ended == []


def test_a_full_disk_is_one_sentence_wherever_it_is_met(monkeypatch, capsys):
    def run():
        raise OSError(28, "No space left on device", "cycle/mine")

    monkeypatch.setattr(cli, "app", run)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "Error: cycle/mine: No space left on device; free some space.\n"


def test_a_file_system_that_makes_no_directories_is_one_sentence(serm, tmp_path):
    told = one_sentence(serm("demo", "--workspace", "/proc/demo", cwd=tmp_path))
    assert told == "Error: /proc/demo: No such file or directory; put it there, or give another path."


def test_a_missing_log(serm, tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    message = one_sentence(serm("ingest", "--log", "nowhere", cwd=tmp_path))
    assert "nowhere" in message


def test_a_log_without_a_column(serm, tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "log").mkdir()
    pq.write_table(pa.table({"query": ["cat"]}), tmp_path / "log" / "part-0.parquet")
    message = one_sentence(serm("ingest", cwd=tmp_path))
    assert "'event_time'" in message
    assert "is missing" in message


def test_without_params_yaml_a_new_user_is_told_where_to_go(serm, tmp_path):
    for verb in (("ingest",), ("rollout", "status"), ("trainjob",)):
        message = one_sentence(serm(*verb, cwd=tmp_path))
        assert "params.yaml: no such file; go to a workspace (`serm init` and `serm demo` make one)" in message, verb


def test_a_place_that_is_no_workspace(serm, tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    for verb in ("evolve", "publish", "advance"):
        assert "not a SERM workspace" in one_sentence(serm(verb, cwd=tmp_path))


def test_doctor_says_what_is_installed_to_machines(tmp_path):
    checks = json.loads(started("doctor", "--json", cwd=tmp_path).stdout)
    parts = {check["part"]: check for check in checks}
    assert parts["torch"]["state"] == "ok"
    assert parts["git"]["found"].endswith("git")
    assert all(check["fix"] for check in checks if check["state"] != "ok")


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


def test_every_verb_stands_at_the_root_of_the_workspace(serm, shop, tmp_path):
    for cwd, given in ((shop / "docs/deep", ()), (tmp_path / "elsewhere", ("--workspace", "../shop"))):
        for verb in ("publish", "record", "advance", "evolve", "ingest", "report", "evidently"):
            message = one_sentence(serm(verb, *given, cwd=cwd))
            assert "not a SERM workspace" not in message
            assert "cycle-0007" not in message
            assert "elsewhere" not in message
    assert "no such directory" in one_sentence(serm("ingest", "--workspace", "nowhere", cwd=tmp_path))


def test_what_the_user_gives_is_relative_to_where_the_user_is(serm, shop, tmp_path):
    message = one_sentence(serm("ingest", "--log", "mine", cwd=shop / "docs"))
    assert str(shop / "docs/mine") in message
    message = one_sentence(serm("advance", "--params", "nowhere.yaml", cwd=shop / "docs"))
    assert str(shop / "docs/nowhere.yaml") in message
    message = one_sentence(serm("export", "--documents", "tests", cwd=shop / "docs"))
    assert str(shop / "docs/tests") in message


def test_every_verb_takes_the_workspace_and_writers_wait_for_each_other(serm, shop):
    from typer.main import get_command

    from serm.cli import app
    from serm.workspace.lock import writing

    commands = cast(TyperGroup, get_command(app)).commands
    verbs = {
        name: one
        for name, one in commands.items()
        if name not in ("bootstrap", "doctor", "documents", "init", "judgments", "review", "rollout", "tests")
    }
    verbs |= cast(TyperGroup, commands["documents"]).commands | cast(TyperGroup, commands["rollout"]).commands
    verbs |= cast(TyperGroup, commands["tests"]).commands
    assert all(any("--workspace" in option.opts for option in one.params) for one in verbs.values())
    with writing(shop, "serm evolve"):
        lock = (shop / ".serm/lock").read_text()
        lock = lock.replace(f'"pid": {os.getpid()}', '"pid": 99999999')  # as if these were not its own children
        (shop / ".serm/lock").write_text(lock)
        for verb in ("publish", "ingest", "train", "evidently"):
            assert "`serm evolve` has been writing" in one_sentence(serm(verb, cwd=shop))
        assert "no cycle to report on" in one_sentence(serm("report", cwd=shop))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("advance",), "params.yaml: no such file; go to a workspace"),
        (("report",), "no workspace; go into one"),
        (("review",), "cycle/annotate: nothing to review there yet; a cycle's annotate step makes it"),
        (("review", "--tests"), "nothing to review there yet; `serm evolve` draws it before each cycle (tests.draw)"),
        (("judgments", "retire", "q", "d", *PERSON), "state/judgments: no judgments there; go into a workspace"),
        (("judgments", "correct", "q", "d", "--grade=1", *PERSON), "state/judgments: no judgments there; go into"),
    ],
)
def test_outside_a_workspace_it_says_so_and_makes_nothing(command, told, serm, tmp_path):
    assert told in one_sentence(serm(*command, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import contextlib, signal
from serm import cli

def app():
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    raise RuntimeError("Query interrupted")

cli.app = app
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background inherits that it is ignored
try:
    cli.main()
finally:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_an_interruption_that_a_library_makes_an_error_of_has_no_traceback():
    """In a process of its own: what goes wrong with a signal ends it."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Aborted.\n")


def test_the_version_is_that_of_the_package(tmp_path):
    from importlib.metadata import version

    done = started("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"serm {version('serm')}\n")


def test_a_shell_can_complete_verbs(tmp_path):
    from typer.testing import CliRunner

    from serm.cli import app

    asked = {"_SERM_COMPLETE": "complete_bash", "COMP_WORDS": "serm ev", "COMP_CWORD": "1"}
    told = CliRunner().invoke(app, [], prog_name="serm", env=asked).stdout.split()
    assert {"evolve", "evaluate", "evidently"} <= set(told)
