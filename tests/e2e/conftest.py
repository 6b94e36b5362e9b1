"""One small cycle of the emoji world, killed and resumed, which all end-to-end tests look at."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serm import versioning

SMALL = {
    "mining": {"budget": 120, "max_scored": 240},
    "training": {"max_pairs": 700},
    "evaluation": {"permutations": 1000},
    "serving": {"requests": 20},
}
PROGRAM = """
import sys
from pathlib import Path
from serm.cli.demo import run
from serm.worlds.emoji import EmojiWorld
from serm.worlds.emoji_stream import EmojiStream

world = EmojiWorld(seed_queries=60, seed_pairs=8, test_queries=30, window_queries=80, sessions=2000)
run(EmojiStream(Path(sys.argv[1]), world), 1)
"""


def start(root):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Run one cycle, kill -9 its processes when the panel begins, and run it again to the end."""
    root = tmp_path_factory.mktemp("e2e") / "demo"
    root.mkdir()
    template = yaml.safe_load((Path(versioning.__file__).parent / "template" / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(template | SMALL, sort_keys=False))
    killed = start(root)
    for line in killed.stdout:
        if line.rstrip().endswith("] annotate"):
            os.killpg(killed.pid, signal.SIGKILL)
            break
    killed.wait()
    resumed = start(root)
    output, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, output
    return root, output
