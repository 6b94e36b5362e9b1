"""``serm submit`` over HTTP, against a server that holds each request and each of its answers to KFP's own swagger."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import threading
from pathlib import Path

import fake_kfp
import pytest
from command_line import serm
from fake_kfp import look

from serm import settings
from serm.errors import UserError
from serm.kubeflow import api
from serm.kubeflow.follow import follow

__all__ = ["serm"]

PARAMS = """\
cycle: {{number: 3, start: "2017-01-01T00:00:00Z", end: "2018-01-01T00:00:00Z"}}
kubeflow:
  host: {url}
  service_account: pipeline-runner
  parameters: {{log: "s3://search/log", documents: "s3://search/documents", repository: /workspace/search}}
"""
URIS = ("knowledge", "tests", "champion", "judgments", "reference", "profiles", "windows")
SET = [argument for name in URIS for argument in ("--set", f"{name}=s3://search/{name}")]
PAGE = (Path(__file__).parents[2] / "docs/run-on-kubeflow.md").read_text(encoding="utf-8")
DOCUMENTED = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ serm submit")
]
EVOLVE = ("submit", "evolve", *SET, "--every", "0.01")


@pytest.fixture
def kfp(monkeypatch):
    monkeypatch.setattr(api, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("SERM_KFP_TOKEN", fake_kfp.TOKEN)
    with fake_kfp.running() as server:
        yield server


@pytest.fixture
def search(kfp, tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.format(url=kfp.url))
    return tmp_path


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_documented_command_runs(serm, kfp, search, line):
    kfp.looks = [look("SUCCEEDED", ingest="SUCCEEDED")]
    done = serm(*shlex.split(line)[1:], cwd=search)
    assert done.returncode == 0, done.stderr


def test_a_run_is_uploaded_started_and_followed_to_its_end(serm, kfp, search):
    kfp.looks = [
        look("RUNNING", ingest="RUNNING"),
        look("RUNNING", ingest="SUCCEEDED", validate="RUNNING"),
        look("SUCCEEDED", ingest="SUCCEEDED", validate="SUCCEEDED"),
    ]
    done = serm(*EVOLVE, "--json", cwd=search)
    assert done.returncode == 0, done.stderr
    (run,) = kfp.things["runs"].values()
    assert run["display_name"].startswith("serm-evolve-cycle-0003-")
    assert run["service_account"] == "pipeline-runner"
    assert run["runtime_config"]["parameters"]["log"] == "s3://search/log"
    assert run["runtime_config"]["parameters"]["settings"] == (search / "params.yaml").read_text()
    (experiment,) = kfp.things["experiments"].values()
    assert run["experiment_id"] == experiment["experiment_id"]
    (uploaded,) = kfp.packages.values()
    assert uploaded[0]["pipelineInfo"]["name"] == "serm-evolve"
    said = [line.split(" ", 1)[1] for line in done.stderr.splitlines() if line[2:3] == ":"]
    assert said == [
        "ingest: running", "the run: running",
        "ingest: succeeded", "validate: running",
        "validate: succeeded", "the run: succeeded",
    ]  # fmt: skip
    assert json.loads(done.stdout)["tasks"] == {"ingest": "succeeded", "validate": "succeeded"}


def test_the_same_pipeline_is_uploaded_once_and_another_one_beside_it(serm, kfp, search):
    for _ in range(2):
        assert serm(*EVOLVE, "--no-wait", cwd=search).returncode == 0
    assert [len(kfp.things[kind]) for kind in ("pipelines", "versions", "experiments", "runs")] == [1, 1, 1, 2]
    with (search / "params.yaml").open("a") as file:
        file.write("  task: {memory: 9Gi}\n")
    assert serm(*EVOLVE, "--no-wait", cwd=search).returncode == 0
    assert [len(kfp.things[kind]) for kind in ("pipelines", "versions")] == [1, 2]


@pytest.mark.parametrize(
    ("call", "fault"),
    [*((call, "hang up") for call in range(4)), (3, ("done", 503)), (3, ("done", 500)), (0, ("done", 409))],
)
def test_what_was_made_without_an_answer_is_not_made_twice(serm, kfp, search, call, fault):
    kfp.faults = [None] * call + [fault]
    done = serm(*EVOLVE, "--no-wait", cwd=search)
    assert done.returncode == 0, done.stderr
    assert [len(kfp.things[kind]) for kind in ("pipelines", "versions", "experiments", "runs")] == [1, 1, 1, 1]
    assert not kfp.faults


@pytest.mark.parametrize("fault", [503, 502, 429])
def test_a_server_that_is_busy_for_a_while_is_asked_again(serm, kfp, search, fault):
    kfp.faults, kfp.down = [fault, None, fault, fault], 2
    assert serm(*EVOLVE, "--no-wait", cwd=search).returncode == 0
    assert len(kfp.things["runs"]) == 1


def test_a_server_that_stays_down_is_one_sentence(serm, kfp, search):
    kfp.down = 99
    done = serm(*EVOLVE, cwd=search)
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: {kfp.url}: KFP did not do the pipeline serm-evolve (503: upstream connect error); look at the logs of"
        " its ml-pipeline deployment.\n"
    )


def test_no_server_is_one_sentence(serm, kfp, search):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = serm(*EVOLVE, "--host", f"http://127.0.0.1:{port}", cwd=search)
    assert done.returncode == 2
    assert "no answer about the pipeline serm-evolve" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_token_that_is_not_valid_is_one_sentence_without_the_token(serm, kfp, search, monkeypatch):
    monkeypatch.setenv("SERM_KFP_TOKEN", "another-token")
    done = serm(*EVOLVE, cwd=search)
    assert done.returncode == 2
    assert "401: Unauthenticated" in done.stderr
    assert "SERM_KFP_TOKEN" in done.stderr
    assert "another-token" not in done.stderr
    assert not kfp.things["runs"]


def test_a_token_is_read_from_the_mounted_file(serm, kfp, search, monkeypatch):
    monkeypatch.delenv("SERM_KFP_TOKEN")
    (search / "token").write_text(f"{fake_kfp.TOKEN}\n")
    with (search / "params.yaml").open("a") as file:
        file.write(f"  token_file: {search / 'token'}\n")
    assert serm(*EVOLVE, "--no-wait", cwd=search).returncode == 0


def test_a_failed_run_says_what_failed_and_ends_with_code_1(serm, kfp, search):
    error = "serm.errors.UserError: mine: no pair was shown often enough.\x1b[2J"
    kfp.looks = [look("FAILED", ingest="SUCCEEDED", mine=("FAILED", error))]
    done = serm(*EVOLVE, cwd=search)
    assert done.returncode == 1
    assert "Error: mine: serm.errors.UserError: mine: no pair was shown often enough.\\x1b[2J" in done.stderr


def test_a_run_that_succeeded_did_so_though_its_report_cannot_be_fetched(serm, kfp, search):
    (search / ".dvc").mkdir()
    for command in (
        "init --quiet --initial-branch=main",
        "-c user.name=t -c user.email=t@t commit --quiet --allow-empty --message=a",
        "remote add origin /nowhere.git",
        "update-ref refs/remotes/origin/main HEAD",
        "branch --quiet --set-upstream-to=origin/main",
    ):
        subprocess.run(["git", *command.split()], cwd=search, check=True)
    kfp.looks = [look("SUCCEEDED", ingest="SUCCEEDED")]
    done = serm(*EVOLVE, "--json", cwd=search)
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "succeeded")
    assert "The run succeeded; its report is not fetched: " in done.stderr
    assert "/nowhere.git" in done.stderr


def test_a_run_that_takes_longer_goes_on_and_is_followed_later(serm, kfp, search):
    kfp.looks = [look("RUNNING", ingest="RUNNING")] * 3
    done = serm(*EVOLVE, "--timeout", "1", "--every", "2", cwd=search)
    assert done.returncode == 2
    assert "is running after 1 seconds, and goes on" in done.stderr
    kfp.looks = [look("SUCCEEDED", ingest="SUCCEEDED")]
    assert serm("submit", "--follow", "runs-1", cwd=search).returncode == 0
    done = serm("submit", "--follow", "runs-7", cwd=search)
    assert (done.returncode, len(kfp.things["runs"])) == (2, 1)
    assert "there is no run runs-7; it was deleted, or" in done.stderr
    assert "kubeflow.host" not in done.stderr


def test_a_run_that_is_deleted_while_it_is_followed_is_one_sentence(kfp):
    pipelines = api.Pipelines(settings.KubeflowSettings(), kfp.url)
    kfp.things["runs"]["runs-1"] = {"run_id": "runs-1", "state": "RUNNING"}
    kfp.looks = [look("RUNNING", ingest="RUNNING")] * 2
    with pytest.raises(UserError, match=r"there is no run runs-1; it was deleted") as error:
        follow(pipelines, "runs-1", lambda _: kfp.things["runs"].clear(), every=0.0)
    assert "\n" not in str(error.value)


def test_a_dry_run_sends_nothing_and_writes_what_would_be_uploaded(serm, kfp, search):
    done = serm(*EVOLVE, "--dry-run", "--package", str(search / "evolve.yaml"), "--json", cwd=search)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pipeline"] == "serm-evolve"
    assert told["parameters"]["repository"] == "/workspace/search"
    assert (search / "evolve.yaml").read_text().startswith("components:")
    assert not kfp.asked


def test_a_schedule_is_made_once_replaced_when_told_and_taken_away(serm, kfp, search):
    daily = (*EVOLVE, "--cron", "0 0 3 * * *")
    kfp.faults = [None, None, None, "hang up"]
    for _ in range(2):
        assert serm(*daily, cwd=search).returncode == 0
    (one,) = kfp.things["recurringruns"].values()
    assert one["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (one["max_concurrency"], one["no_catchup"], one["mode"]) == ("1", True, "ENABLE")
    weekly = (*EVOLVE, "--cron", "0 0 3 * * 1")
    done = serm(*weekly, cwd=search)
    assert (done.returncode, len(kfp.things["recurringruns"])) == (2, 1)
    assert "give --replace" in done.stderr
    next(iter(kfp.things["recurringruns"].values()))["status"] = "DISABLED"  # in KFP's UI
    done = serm(*daily, cwd=search)
    assert (done.returncode, "is disabled; give --replace" in done.stderr) == (2, True)
    kfp.faults = ["hang up"]
    assert serm(*weekly, "--replace", cwd=search).returncode == 0
    (one,) = kfp.things["recurringruns"].values()
    assert one["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert serm(*EVOLVE, "--unschedule", cwd=search).stdout.startswith("1 of serm-evolve's schedules")
    assert not kfp.things["recurringruns"]
    assert not kfp.things["runs"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("submit", "evolved"), "'evolved' is no pipeline of SERM; give one of "),
        (("submit", "evolve"), "needs champion, judgments, knowledge, profiles, reference, tests, windows"),
        ((*EVOLVE, "--set", "loog=x"), "--set loog: the pipeline evolve has no such parameter; it has champion, "),
        ((*EVOLVE, "--set", "force"), "--set force: write NAME=VALUE"),
        (("submit", "bootstrap", "--set", "every=inf"), "The parameter every: 'inf' is no number double"),
        ((*EVOLVE, "--set", "force=perhaps"), "The parameter force: 'perhaps' is no boolean"),
        ((*EVOLVE, "--cron", "0 3 * * *"), "six fields"),
        ((*EVOLVE, "--host", "kfp.example.org"), "give a URL"),
        ((*EVOLVE, "--package", "x.yaml"), "--dry-run"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_sent(serm, kfp, search, arguments, complaint):
    done = serm(*arguments, cwd=search)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert not kfp.asked


def test_a_parameter_that_no_pipeline_knows_is_one_sentence(serm, kfp, search):
    text = (search / "params.yaml").read_text()
    (search / "params.yaml").write_text(text.replace("parameters: {", "parameters: {windws: 6, "))
    done = serm(*EVOLVE, cwd=search)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "kubeflow.parameters: 'windws' is a parameter of no pipeline; there are base, branch, " in done.stderr


def test_a_login_page_in_the_place_of_the_api_is_one_sentence(serm, kfp, search, monkeypatch):
    page = b"HTTP/1.1 302 Found\r\nLocation: /dex/auth\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(page)

        threading.Thread(target=answer, daemon=True).start()
        done = serm(*EVOLVE, "--host", f"http://127.0.0.1:{server.getsockname()[1]}", cwd=search)
    assert done.returncode == 2
    assert "it sends to a login page" in done.stderr
