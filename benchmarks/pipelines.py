"""Do the pipelines that start from a git repository run whole? Each under ``kfp.local``, in processes of this machine.

    python benchmarks/pipelines.py DIRECTORY

In a small emoji world (users and judges simulated, a tiny encoder with random weights): ``bootstrap`` makes a workspace
of raw files and pushes it to an empty repository; ``backfill`` runs the next two windows of another, of which the log
covers one; ``watch`` and ``rollout`` look at what it left. How each ended, its tasks in order, its seconds and the
repository's commits go to results/pipelines.json. A cluster is not needed, and not shown by this.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from serm.atomic import write_json
from serm.layout import INPUTS, PARAMS, SETUP, STATE
from serm.workspace.store import Workspace, run
from serm.worlds import raw, small

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import tiny_encoder

RESULT = Path(__file__).parent / "results" / "pipelines.json"
COMPILED = Path(small.__file__).parents[1] / "workspace" / "compiled"
PROGRAM = """
import json, sys
from kfp import components, local
package, root, volume, given = sys.argv[1:]
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, workspace_root=volume)
components.load_component_from_file(package)(**json.loads(given))
"""
_ENDED = re.compile(r"Task '(\S+)' finished with status (\S+)")


def main() -> None:
    """Read the command line, run the pipelines and keep what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    here = parser.parse_args().directory.absolute()
    encoder = tiny_encoder.write(here / "encoder")
    files, origin = found(here, encoder)
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
    repositories = {"bootstrap": empty, "backfill": origin}
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


def whole(name: str, given: Mapping[str, Any], here: Path, program: str = PROGRAM) -> dict[str, Any]:
    """Run a compiled pipeline by a program of its own; return how it ended, its tasks and its seconds."""
    shutil.rmtree(here / "volume", ignore_errors=True)
    here.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", program, COMPILED / f"{name}.yaml", here / "tasks", here / "volume"]
    start = time.perf_counter()
    done = subprocess.run([*map(str, command), json.dumps(given)], capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[\d*m", "", done.stdout)
    tasks = [f"{task} {status.lower()}" for task, status in _ENDED.findall(said)]
    ended = "succeeded" if done.returncode == 0 else "failed: " + done.stderr.strip().rpartition("\n")[2][:500]
    print(f"{name}: {ended}", *tasks, sep="\n  ", flush=True)
    return {"ended": ended, "seconds": round(time.perf_counter() - start), "tasks": tasks}


if __name__ == "__main__":
    main()
