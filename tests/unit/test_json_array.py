"""A JSON array of any size is read element by element, and where it breaks off is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serm.catalogue import json_array
from serm.catalogue.json_array import elements
from serm.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 1]), escaped=st.booleans())
def test_elements_are_those_of_the_array_in_parts_of_any_size(
    values: list[object], indent: int | None, escaped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_array, "_PART", 1)
    monkeypatch.setattr("serm.lines._CHUNK_BYTES", 3)
    path = tmp_path / "array.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=escaped), "utf-8", "surrogatepass")
    found = list(elements(path))
    assert [number for number, _, _ in found] == list(range(1, len(values) + 1))
    for (_, text, reason), value in zip(found, values, strict=True):
        assert reason == "not UTF-8" if text is None else json.loads(text) == value


def test_an_element_that_is_not_utf8_is_named_and_the_next_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "array.json").write_bytes(b'\xef\xbb\xbf[1, "\xff", {"a": 2}]')
    assert list(elements(tmp_path / "array.json")) == [(1, "1", None), (2, None, "not UTF-8"), (3, '{"a": 2}', None)]


@pytest.mark.parametrize("text", ["[1, 2", "[1 2]", "[1, ]", "[1] more", "[1, {]", "{}", "[" * 100_000, "[01]"])
def test_an_array_that_breaks_off_is_one_sentence_with_the_last_whole_element(text: str, tmp_path: Path) -> None:
    (tmp_path / "array.json").write_text(text)
    with pytest.raises(UserError, match=r"array\.json: the JSON array breaks off after its element \d") as raised:
        list(elements(tmp_path / "array.json"))
    assert "\n" not in str(raised.value)
