"""Make the emoji world's Parquet files from two npm packages, and the numbers in its datasheet.

    python data/build_emoji.py                          # downloads the pinned packages with `npm pack`
    python data/build_emoji.py EMOJIBASE EMOJILIB       # or reads them from unpacked `package` directories

The same packages give the same bytes. Running SERM needs none of this: the files are in the repository.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.atomic import write_text
from serm.errors import UserError
from serm.worlds.emoji import (
    LAUNCHES,
    TRUTH,
    TRUTH_SUBGROUPS,
    WINDOWS,
    EmojiWorld,
    document_id,
)

PACKAGES = {
    "emojibase-data": (
        "17.0.0",
        "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ),
    "emojilib": (
        "4.0.3",
        "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    ),
}

#: Emoji version -> year of release; versions up to 2 count as 2015.
YEARS = {
    0.6: 2015, 0.7: 2015, 1: 2015, 2: 2015, 3: 2016, 4: 2016, 5: 2017, 11: 2018, 12: 2019, 12.1: 2019,
    13: 2020, 13.1: 2020, 14: 2021, 15: 2022, 15.1: 2023, 16: 2024, 17: 2025,
}  # fmt: skip

LOCALES = sorted(locale for locales in LAUNCHES for locale in locales)
UNSPACED = ("ja", "th", "zh")
COMPOUNDING = (*UNSPACED, "ko")
COMPONENT = "component"
MIN_EMOJI, MAX_EMOJI = 3, 25
HERE = Path(__file__).parent / "emoji"  # a link to serm/worlds/emoji_data, which a wheel brings


def tokens(text: str) -> str:
    """Return the words of ``text`` with a space around each: NFKC, casefolded, letters, marks and numbers.

    Unicode categories, not ``\\w``, because the vowel signs of Devanagari and Bengali are marks.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    joiners = "\u200c\u200d"
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in joiners else " " for c in text)
    return f" {' '.join(''.join(kept).split())} "


def stands_in(keyword: str, name: str, locale: str, *, listed: bool) -> bool:
    """Return whether a keyword stands in a name (both from ``tokens``): as whole words.

    Japanese, Thai and Chinese write no spaces and Korean builds compounds, so there a listed keyword may also
    be a part of a word, and an unlisted one in an unspaced script must be the whole name: otherwise a kiss
    (kisu) would stand in Pakistan (pakisutan).
    """
    if not keyword.strip():
        return False
    if listed and locale in COMPOUNDING:
        return keyword.replace(" ", "") in name.replace(" ", "")
    return keyword == name if locale in UNSPACED else keyword in name


def read_emoji(emojibase: Path) -> dict[str, list[dict[str, Any]]]:
    """Return locale -> the emoji that have a group other than ``component``, as emojibase describes them."""
    groups = json.loads((emojibase / "meta/groups.json").read_text(encoding="utf-8"))
    world = {}
    for locale in LOCALES:
        emoji = json.loads((emojibase / locale / "data.json").read_text(encoding="utf-8"))
        for entry in emoji:
            entry["group"] = groups["groups"].get(str(entry.get("group")), COMPONENT)
            entry["subgroup"] = groups["subgroups"].get(str(entry.get("subgroup")), "")
        world[locale] = sorted(
            (entry for entry in emoji if entry["group"] != COMPONENT), key=lambda entry: entry["hexcode"]
        )
    return world


def documents(world: dict[str, list[dict[str, Any]]]) -> pa.Table:
    """Return the documents: an emoji's CLDR name in a locale, live from 1 July of its year of release."""
    rows = [
        {
            "doc_id": document_id(locale, entry["hexcode"]),
            "locale": locale,
            "title": entry["label"],
            "body": "",
            "published_at": datetime(YEARS[entry["version"]], 7, 1, tzinfo=UTC),
            "attributes": [("emoji", entry["emoji"]), ("group", entry["group"])],
        }
        for locale, emoji in world.items()
        for entry in emoji
    ]
    return pa.Table.from_pylist(rows, contracts.DOCUMENTS)


def truth(world: dict[str, list[dict[str, Any]]]) -> pa.Table:
    """Return grades 3 and 2 of every query: a keyword that CLDR gives to 3 to 25 emoji in a locale."""
    rows = []
    for locale, emoji in world.items():
        listing = defaultdict(set)
        for entry in emoji:
            for tag in entry["tags"]:
                listing[tag.lower()].add(entry["hexcode"])
        names = [(entry["hexcode"], tokens(entry["label"]), YEARS[entry["version"]]) for entry in emoji]
        for query in sorted(query for query, hits in listing.items() if MIN_EMOJI <= len(hits) <= MAX_EMOJI):
            keyword = tokens(query)
            for hexcode, name, year in names:
                listed = hexcode in listing[query]
                named = stands_in(keyword, name, locale, listed=listed)
                if listed or named:
                    doc_id = document_id(locale, hexcode)
                    rows.append((query, locale, doc_id, 3 if named else 2, listed, year))
    return pa.Table.from_pylist([dict(zip(TRUTH.names, row, strict=True)) for row in rows], TRUTH)


def bare(emoji: str) -> str:
    """Return an emoji without variation selectors, which the two packages put differently."""
    return emoji.replace("\ufe0f", "")


def knowledge(english: list[dict[str, Any]], emojilib: Path) -> pa.Table:
    """Return emojilib's English keywords, keyed by the emoji as the documents spell it."""
    entries = json.loads((emojilib / "dist/emoji-en-US.json").read_text(encoding="utf-8"))
    keywords = {bare(emoji): words for emoji, words in entries.items()}
    rows = [
        {"key": entry["emoji"], "text": word.replace("_", " ")}
        for entry in english
        for word in dict.fromkeys(keywords.get(bare(entry["emoji"]), []))
    ]
    return pa.Table.from_pylist(rows, contracts.KNOWLEDGE)


def overlap(english: list[dict[str, Any]], known: pa.Table) -> tuple[float, float]:
    """Return the shares of CLDR's English (emoji, keyword) pairs in emojilib, and of emojilib's in CLDR."""
    cldr = {(entry["emoji"], tag.lower()) for entry in english for tag in entry["tags"]}
    community = {(row["key"], row["text"].lower()) for row in known.to_pylist()}
    return len(cldr & community) / len(cldr), len(cldr & community) / len(community)


def numbers(data: Path, shares: tuple[float, float]) -> str:
    """Return the datasheet's tables as Markdown, counted from the files in ``data``."""
    world = EmojiWorld(data=data)
    true = world.truth
    relevant = true.grades >= 2
    first = np.array([true.years[row].min() for row in true.listed])
    windows = [world.released(true.years, k) & ~world.released(true.years, k - 1) for k in range(len(WINDOWS))]
    lines = [
        "| | up to 2016 | window 1 | window 2 | window 3 | all |",
        "|---|---:|---:|---:|---:|---:|",
        _row("emoji released", [int(fresh.sum()) for fresh in windows], f"{len(true.years):,}"),
        _row(
            "queries whose first listed emoji is of then",
            [int(world.released(first, k).sum() - world.released(first, k - 1).sum()) for k in range(len(WINDOWS))],
            f"{len(true.queries):,}",
        ),
        _row("queries that list an emoji of then", [int(true.listed[:, f].any(axis=1).sum()) for f in windows], ""),
        _row("locales launched", [len(locales) for locales in LAUNCHES], f"{len(LOCALES)}"),
        *(
            _row(f"live queries at the end, {split}", [len(world.live_queries(k, split)) for k in range(4)], "")
            for split in ("train", "frozen", "rolling")
        ),
        "",
        "| locale | launch | queries | train | frozen | rolling | grade 3 | grade 2 | grade 1 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for window, locales in enumerate(LAUNCHES):
        for locale in locales:
            here = true.locales == locale
            counts = [int(here.sum())]
            counts += [int((here & (true.splits == split)).sum()) for split in ("train", "frozen", "rolling")]
            counts += [int((true.grades[here] == grade).sum()) for grade in (3, 2, 1)]
            lines.append(_row(f"{locale} | {window}", counts))
    named = int((true.grades == 3).sum())
    listed_named = int(((true.grades == 3) & true.listed).sum())
    lines += [
        "",
        "| measure | value |",
        "|---|---:|",
        f"| documents | {len(true.years) * len(LOCALES):,} |",
        f"| pairs of grade 2 or 3 | {int(relevant.sum()):,} |",
        f"| of these grade 3 (the keyword stands in the name) | {named / relevant.sum():.1%} |",
        f"| pairs that CLDR lists | {int(true.listed.sum()):,} |",
        f"| of these grade 3 | {listed_named / true.listed.sum():.1%} |",
        f"| grade 3 that CLDR does not list | {named - listed_named:,} |",
        f"| CLDR's English (emoji, keyword) pairs that emojilib has too | {shares[0]:.1%} |",
        f"| emojilib's (emoji, keyword) pairs that CLDR has too | {shares[1]:.1%} |",
    ]
    return "\n".join(lines)


def _row(name: str, counts: list[int], *more: str) -> str:
    return f"| {' | '.join([name, *(f'{count:,}' for count in counts), *more])} |"


def download(name: str, into: Path) -> Path:
    """Fetch a pinned package with `npm pack`, check its sha512 and return its unpacked directory."""
    version, integrity = PACKAGES[name]
    subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=into, check=True, capture_output=True)
    tarball = into / f"{name}-{version}.tgz"
    found = "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != integrity:
        raise UserError(f"{tarball.name}: its integrity is {found}, not the pinned {integrity}; do not use it.")
    with tarfile.open(tarball) as archive:
        archive.extractall(into / name, filter="data")
    return into / name / "package"


def build(emojibase: Path, emojilib: Path, out: Path) -> None:
    """Write every file of the emoji world into ``out`` and the numbers into its DATASHEET.md."""
    for name, package in (("emojibase-data", emojibase), ("emojilib", emojilib)):
        version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
        if version != PACKAGES[name][0]:
            raise UserError(f"{package}: version {version} of {name}; the emoji world is {PACKAGES[name][0]}.")
        shutil.copyfile(package / "LICENSE", out / f"LICENSE-{name.removesuffix('-data')}")
    world = read_emoji(emojibase)
    english = world["en"]
    known = knowledge(english, emojilib)
    siblings = [{"hexcode": entry["hexcode"], "subgroup": entry["subgroup"]} for entry in english]
    contracts.write(documents(world), out / "documents", contracts.DOCUMENTS)
    contracts.write(known, out / "knowledge", contracts.KNOWLEDGE)
    contracts.write(truth(world), out / "truth", TRUTH)
    contracts.write(pa.Table.from_pylist(siblings), out / "truth_subgroups", TRUTH_SUBGROUPS)
    sheet = out / "DATASHEET.md"
    head, begin, rest = sheet.read_text(encoding="utf-8").partition("<!-- numbers -->\n")
    _, end, tail = rest.partition("<!-- end of numbers -->")
    write_text(sheet, f"{head}{begin}{numbers(out, overlap(english, known))}\n{end}{tail}")


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("emojibase", nargs="?", type=Path, help="unpacked emojibase-data; else npm pack")
    parser.add_argument("emojilib", nargs="?", type=Path, help="unpacked emojilib; else npm pack")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        emojibase = arguments.emojibase or download("emojibase-data", Path(scratch))
        emojilib = arguments.emojilib or download("emojilib", Path(scratch))
        build(emojibase, emojilib, HERE)


if __name__ == "__main__":
    main()
