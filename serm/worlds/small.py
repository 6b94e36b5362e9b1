"""The emoji world in small: a tenth of its users, every sixth emoji. To see the loop go round, not to learn from."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from serm import contracts
from serm.atomic import write_text
from serm.layout import PARAMS
from serm.workspace.store import TEMPLATE
from serm.worlds.emoji import TRUTH, TRUTH_SUBGROUPS, EmojiWorld
from serm.worlds.emoji_stream import EmojiStream

#: What differs from the demo's params.yaml.
_SETTINGS = {
    "mining": {"budget": 120, "max_scored": 240},
    "training": {
        "max_pairs": 700,
        "anchors": 100,
        "batch_pairs": 40,
        "epochs": 1,
        "founding_epochs": 1,
        "threads": 1,
    },
    "evaluation": {"permutations": 1000},
    "serving": {"requests": 20},
}
_EVERY = 6


def small_world(data: Path) -> EmojiWorld:
    """Return a small emoji world whose data, the hidden truth included, lies in ``data``; it is made there first."""
    if not (data / "knowledge").exists():
        _write(data)
    return EmojiWorld(seed_queries=60, seed_pairs=8, test_queries=80, window_queries=80, sessions=2000, data=data)


def small_stream(workspace: Path) -> EmojiStream:
    """Return the stream of a small emoji world; its data and its settings lie beside ``workspace``."""
    data = workspace.absolute().with_name(workspace.name + ".world")  # the founding goes into the workspace
    world = small_world(data)
    if not (data / PARAMS).exists():
        template = yaml.safe_load((TEMPLATE / PARAMS).read_text(encoding="utf-8"))
        write_text(data / PARAMS, yaml.safe_dump(template | _SETTINGS, sort_keys=False))
    return EmojiStream(workspace, world, data / PARAMS)


def _write(data: Path) -> None:
    """Write the part of every sixth emoji, and all of the knowledge, which is written last."""
    tables = {"documents": contracts.DOCUMENTS, "truth": TRUTH, "truth_subgroups": TRUTH_SUBGROUPS}
    whole = {name: contracts.read(EmojiWorld().data / name, schema) for name, schema in tables.items()}
    chosen = pa.array(sorted(whole["truth_subgroups"]["hexcode"].to_pylist())[::_EVERY])
    for name, schema in tables.items():
        table = whole[name]
        hexcode = table["hexcode"] if "hexcode" in table.column_names else pc.utf8_slice_codeunits(table["doc_id"], 3)
        contracts.write(table.filter(pc.is_in(hexcode, chosen)), data / name, schema)
    contracts.write(EmojiWorld().knowledge(), data / "knowledge", contracts.KNOWLEDGE)
