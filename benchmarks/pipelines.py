"""Do the pipelines that start from a git repository run whole? Each under ``kfp.local``, in processes of this machine.

    python benchmarks/pipelines.py DIRECTORY

In a small emoji world (users and judges simulated, a tiny encoder with random weights): ``bootstrap`` makes a workspace
of raw files and pushes it to an empty repository; ``backfill`` runs the next two windows of another, of which the log
covers one; ``watch`` and ``rollout`` look at what it left, where there is nothing to do. ``watch`` of a third, whose
log ends within the window, finds drift and runs the cycle; ``rollout`` of it takes a rollout that runs a step on, with
a file for the traffic and a made-up joined log. How each ended, its tasks in order, its seconds and the repository's
commits go to results/pipelines.json. A cluster is not needed, and not shown by this.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from serm import contracts
from serm import settings as params
from serm.atomic import write_json
from serm.layout import DOCUMENTS, INPUTS, LOG, PARAMS, ROLLOUTS, SETUP, STATE
from serm.rollout import controller
from serm.workspace.store import Workspace, run
from serm.worlds import raw, small
from serm.worlds.emoji import WINDOWS

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import file_traffic
import tiny_encoder

TESTS = Path(file_traffic.__file__).parent
RESULT = Path(__file__).parent / "results" / "pipelines.json"
COMPILED = Path(small.__file__).parents[1] / "workspace" / "compiled"
PROGRAM = """
import json, sys
from kfp import components, local
package, root, volume, given = sys.argv[1:]
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, workspace_root=volume)
components.load_component_from_file(package)(**json.loads(given))
"""
ROLLOUT = """
rollout:
  steps: [10, 50]
  min_users: 20
  bake_hours: 0
  unwatched: [errors, latency]
  traffic: file
  traffic_options: {{path: {path}}}
"""
_ENDED = re.compile(r"Task '(\S+)' finished with status (\S+)")


def main() -> None:
    """Read the command line, run the pipelines and keep what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    here = parser.parse_args().directory.absolute()
    encoder = tiny_encoder.write(here / "encoder")
    files, origin = found(here, encoder)
    watched = cut(here)
    empty = here / "empty.git"
    run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(empty)], here)
    given: dict[str, dict[str, Any]] = {
        "bootstrap": {
            "repository": f"file://{empty}",
            "remote": str(here / "another-remote"),
            "log": str(files / raw.LOG),
            "documents": str(files / raw.PRODUCTS),
            "judgments": str(files / raw.JUDGMENTS),
            "base": str(encoder),
        },
        "backfill": {"repository": f"file://{origin}", "windows": 2, "force": True},
        "watch": {"repository": f"file://{origin}"},
        "rollout": {"repository": f"file://{origin}", "log": str(files / raw.LOG)},
    }
    ran = {name: whole(name, of, here / name) for name, of in given.items()}
    ran["watch, drifted"] = whole("watch", {"repository": f"file://{watched}"}, here / "drifted")
    joined = begin_rollout(here, watched)
    ran["rollout, running"] = whole(
        "rollout", {"repository": f"file://{watched}", "log": str(joined)}, here / "running"
    )
    repositories = {"bootstrap": empty, "backfill": origin, "rollout, running": watched}
    for name, repository in repositories.items():
        ran[name]["commits"] = run(["git", "log", "--format=%s", "main"], repository).splitlines()
    about = {"command": "python benchmarks/pipelines.py DIRECTORY", "date": str(date.today()), "users": "simulated"}
    told = {"processor": platform.processor() or platform.machine(), "summary": {n: o["ended"] for n, o in ran.items()}}
    write_json(RESULT, {**about, **told, "pipelines": ran})


def found(here: Path, encoder: Path) -> tuple[Path, Path]:
    """Found a workspace and let its world go on to the first window; return its raw files and its bare repository."""
    root = here / "shop"
    stream = small.small_stream(root)
    settings = root.with_name(f"{root.name}.world") / PARAMS
    settings.write_text(settings.read_text().replace("relevance:\n", f"relevance:\n  base: {encoder}\n"))
    stream.found()
    founded = (root / PARAMS).read_text()
    stream.open_window(1)
    (root / PARAMS).write_text(founded)  # backfill opens the window itself
    workspace = Workspace(root)
    tracked = [path for path in (*INPUTS, *STATE) if (root / path).exists()]
    workspace.track(*tracked)
    workspace.commit("The first window", [*SETUP, PARAMS, *workspace.pointers(*tracked)])
    workspace.dvc("push", "--quiet")
    run(["git", "clone", "--quiet", "--bare", str(root), str(here / "origin.git")], here)
    return stream.raw, here / "origin.git"


def cut(here: Path) -> Path:
    """Let log and catalogue end within the first window, and return a bare repository of that."""
    workspace = Workspace(here / "shop")
    start, end = WINDOWS[1]
    until = start + (end - start) * 0.6
    for path in sorted((workspace.path / LOG / "window=1").rglob("*.parquet")):
        table = pq.read_table(path)
        path.unlink()  # DVC's cache has the same file
        pq.write_table(table.filter(pc.less(table["event_time"], until)), path)
    documents = contracts.read(workspace.path / DOCUMENTS, contracts.DOCUMENTS)
    there = pc.less(documents["published_at"], until)
    contracts.write(documents.filter(there), workspace.path / DOCUMENTS, contracts.DOCUMENTS)
    workspace.track(LOG, DOCUMENTS)
    workspace.commit("A part of the first window", workspace.pointers(LOG, DOCUMENTS))
    workspace.dvc("push", "--quiet")
    run(["git", "clone", "--quiet", "--bare", str(workspace.path), str(here / "watched.git")], here)
    return here / "watched.git"


def begin_rollout(here: Path, repository: Path) -> Path:
    """Begin a rollout of the first cycle yesterday, push its record, and return the joined log of its users."""
    run(["git", "clone", "--quiet", str(repository), str(here / "people")], here)
    workspace, begun = Workspace(here / "people"), datetime.now(UTC) - timedelta(days=1)
    users = file_traffic.FileTraffic(here / "traffic.json")
    path = workspace.path / PARAMS
    path.write_text(path.read_text() + ROLLOUT.format(path=users.path))
    controller.start(workspace.path / ROLLOUTS, "cycle-0001", params.load(path).rollout, users, begun)
    workspace.commit("A rollout", [PARAMS, ROLLOUTS / "cycle-0001.json"])
    workspace.git("push", "--quiet")
    told = here / "installed" / "file_traffic-1.dist-info"  # as a package that registers a backend
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: file-traffic\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[serm.traffic]\nfile = file_traffic:connect\n")
    file_traffic.write_log(here / "joined", begun, 60)
    return here / "joined"


def whole(name: str, given: Mapping[str, Any], here: Path, program: str = PROGRAM) -> dict[str, Any]:
    """Run a compiled pipeline by a program of its own; return how it ended, its tasks and its seconds."""
    shutil.rmtree(here / "volume", ignore_errors=True)
    here.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", program, COMPILED / f"{name}.yaml", here / "tasks", here / "volume"]
    paths = [str(here.parent / "installed"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    start = time.perf_counter()
    done = subprocess.run(
        [*map(str, command), json.dumps(given)], capture_output=True, text=True, check=False, env=environment
    )
    said = re.sub(r"\x1b\[\d*m", "", done.stdout)
    (here / f"{name}-{int(start)}.log").write_text(said + done.stderr)
    tasks = [f"{task} {status.lower()}" for task, status in _ENDED.findall(said)]
    ended = "succeeded" if done.returncode == 0 else "failed: " + done.stderr.strip().rpartition("\n")[2][:500]
    print(f"{name}: {ended}", *tasks, sep="\n  ", flush=True)
    return {"ended": ended, "seconds": round(time.perf_counter() - start), "tasks": tasks}


if __name__ == "__main__":
    main()
