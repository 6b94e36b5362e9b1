"""One small cycle of the emoji world, killed and resumed, which all end-to-end tests look at."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from serm import contracts
from serm.workspace.store import TEMPLATE
from serm.worlds.emoji import TRUTH, TRUTH_SUBGROUPS, EmojiWorld

SMALL = {
    "mining": {"budget": 120, "max_scored": 240},
    "training": {"max_pairs": 700, "founding_epochs": 1, "threads": 1},
    "evaluation": {"permutations": 1000},
    "serving": {"requests": 20},
}
PROGRAM = """
import sys
from pathlib import Path
from serm.cli.evolve import show_costs
from serm.workspace.runner import run_loop
from serm.worlds.emoji import EmojiWorld
from serm.worlds.emoji_stream import EmojiStream

path = Path(sys.argv[1])
world = EmojiWorld(
    seed_queries=60, seed_pairs=8, test_queries=60, window_queries=80, sessions=2000, data=path.with_name("emoji")
)
run_loop(EmojiStream(path, world), 1, show_costs)
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


def small_world(directory):
    """Write every sixth emoji's part of the emoji world to ``directory``: its names take long to embed."""
    tables = {"documents": contracts.DOCUMENTS, "truth": TRUTH, "truth_subgroups": TRUTH_SUBGROUPS}
    read = {name: contracts.read(EmojiWorld().data / name, schema) for name, schema in tables.items()}
    chosen = pa.array(sorted(read["truth_subgroups"]["hexcode"].to_pylist())[::6])
    for name, schema in tables.items():
        table = read[name]
        hexcode = table["hexcode"] if "hexcode" in table.column_names else pc.utf8_slice_codeunits(table["doc_id"], 3)
        contracts.write(table.filter(pc.is_in(hexcode, chosen)), directory / name, schema)
    contracts.write(EmojiWorld().knowledge(), directory / "knowledge", contracts.KNOWLEDGE)


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
    small_world(root.with_name("emoji"))
    template = yaml.safe_load((TEMPLATE / "params.yaml").read_text())
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
