"""``serm init`` that was cut short goes on, with the files as they are by then."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_shop
from small_shop import documents

from serm import contracts, layout
from serm.founding import Given, init
from serm.pairs.test_sets import POOL, datasets


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return small_shop.write(tmp_path)


@pytest.fixture(autouse=True)
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")
    monkeypatch.setattr("serm.training.bootstrap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))


def begun(shop: Path, tell: list[str]) -> Path:
    given = Given(shop / "log.ndjson", shop / "products.jsonl", [shop / "judged.csv"], every=10)
    with pytest.raises(KeyboardInterrupt):
        init(shop / "new", given, tell.append)
    return shop / "new"


def test_a_catalogue_that_was_mended_is_read_anew_and_the_rest_is_not(shop: Path) -> None:
    root, told = begun(shop, []), list[str]()
    (root / layout.CHAMPION).mkdir(parents=True)  # as if trained
    log, params = (root / layout.LOG).stat().st_ino, (root / layout.PARAMS).read_text()
    documents(shop, title="a new lamp")
    begun(shop, told)
    titles = contracts.read(root / layout.DOCUMENTS, contracts.DOCUMENTS)["title"].to_pylist()
    assert set(titles) == {"a new lamp"}
    assert "Changed since this was begun, and taken anew: files of documents" in told
    assert (root / layout.LOG).stat().st_ino == log
    assert (root / layout.PARAMS).read_text() != params
    begun(shop, again := [])
    assert not [line for line in again if line.startswith("Changed")]


def test_judgments_and_a_log_that_were_mended_are_too(shop: Path) -> None:
    root = begun(shop, [])
    pools = [contracts.read(path, contracts.JUDGMENTS).num_rows for path in paths(root)]
    text = (shop / "judged.csv").read_text()
    (shop / "judged.csv").write_text(text.replace(",0", ",3"))
    log = (shop / "log.ndjson").read_text()
    (shop / "log.ndjson").write_text(log.replace("lamp 7", "rug"))
    begun(shop, [])
    tables = [contracts.read(path, contracts.JUDGMENTS) for path in paths(root)]
    assert [table.num_rows for table in tables] == pools
    assert 0 not in {grade for table in tables for grade in table["grade"].to_pylist()}
    assert "rug" in (root / layout.LOG / "log.ndjson").read_text()


def paths(root: Path) -> list[Path]:
    return [path for (_, of), path in datasets(root / layout.TESTS).items() if of == POOL]
