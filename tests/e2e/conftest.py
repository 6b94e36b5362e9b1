"""One small cycle of the emoji world, killed and resumed, which all end-to-end tests look at."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import tiny_encoder
from wheel import ENVIRONMENT

from serm.layout import PARAMS
from serm.settings import load
from serm.worlds import small


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


def prepare(root):
    """Write the world and the settings that ``serm demo --small`` would, with fewer emoji and a tiny encoder.

    The packaged encoder's own work, and that two runs of it give the same bytes, is held where it is trained
    (test_relevance_model.py), judges (test_judging_emoji.py) and finds drift (test_drifting_windows.py).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "_EVERY", 12)
        small.small_stream(root)
    encoder = tiny_encoder.write(root.parent / "encoder")
    params = root.with_name(root.name + ".world") / PARAMS
    params.write_text(params.read_text().replace("relevance:\n", f"relevance:\n  base: {encoder}\n"))
    assert load(params).relevance.base == str(encoder)


def start(installed, root):
    return subprocess.Popen(
        [installed / "serm", "demo", "--small", "--cycles", "1", "--workspace", root.name],
        cwd=root.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


#: The longest step, and the one after the cycle is tagged; test_workspace_kills.py kills what shows outside.
KILLED = ("train", "deploy")


@pytest.fixture(scope="session")
def demo(installed, tmp_path_factory):
    """Run one small cycle from the wheel, kill -9 its processes as steps begin, and run it to the end."""
    root = tmp_path_factory.mktemp("e2e") / "demo"
    prepare(root)
    for step in KILLED:
        killed = start(installed, root)
        said = list(iter_until(killed.stdout, f"] {step}"))
        assert said[-1].endswith(f"] {step}"), "".join(said)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    resumed = start(installed, root)
    output, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, output
    return root, output


def iter_until(lines, end):
    """Yield the lines up to the first that ends so."""
    for line in lines:
        yield line.rstrip()
        if line.rstrip().endswith(end):
            return
