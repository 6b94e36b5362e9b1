"""One small cycle of the emoji world, killed and resumed, which all end-to-end tests look at."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from wheel import ENVIRONMENT


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


def start(installed, root):
    return subprocess.Popen(
        [installed / "serm", "demo", "--small", "--cycles", "1", "--workspace", root],
        cwd=root.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def demo(installed, tmp_path_factory):
    """Run one small cycle from the wheel, kill -9 its processes when the panel begins, and run it again to the end."""
    root = tmp_path_factory.mktemp("e2e") / "demo"
    killed = start(installed, root)
    for line in killed.stdout:
        if line.rstrip().endswith("] annotate"):
            os.killpg(killed.pid, signal.SIGKILL)
            break
    killed.wait()
    resumed = start(installed, root)
    output, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, output
    return root, output
