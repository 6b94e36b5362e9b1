"""What in a query may be a person's: addresses, accounts, cards and telephones, told by form and check digits.

A telephone is told by the form that telephones have, or by being written as the numbering plan of a region writes it
(Google's libphonenumber, through ``phonenumbers``); cards by Luhn's check digit (ISO/IEC 7812-1, annex B); IBANs by
country, length and check digits (ISO 13616, through ``python-stdnum``). Sizes, years, prices and norms are several
short numbers too, and stay. docs/bring-your-logs.md has the table of what is found and missed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

import phonenumbers
from phonenumbers import PhoneNumberFormat
from stdnum import iban, luhn
from stdnum.us import ssn

KINDS = ("email", "iban", "card", "phone", "number")
"""What is masked: ``number`` is a run of 7 digits or more, four groups of four or more, or a US social security number,
where it is none of the others."""

CANDIDATE = r"(?i)[@﹫＠]|%40|[(\[]at[)\]]|\p{N}(?:[^\p{L}\p{N}]{0,6}\p{N}){6,}"
"""Every text that ``mask`` changes matches this (RE2 and Java), so that an engine hands it few."""

_EMAIL = re.compile(
    r"[^\s@<>()\[\]]{1,64}(?:@|%40|\s?[(\[]at[)\]]\s?)[^\s@<>()\[\]]{1,190}(?:\.|\s?[(\[]dot[)\]]\s?)[^\s@<>()\[\]]{2,63}",
    re.IGNORECASE,
)
_IBAN = re.compile(r"(?<![^\W_])[A-Z]{2}\d{2}(?:[ .\-]{0,3}[A-Z0-9]){11,30}(?![^\W_])", re.IGNORECASE)
#: Digits with what people put between and before them; groups are split at what stands between.
_RUN = re.compile(r"[+(]{0,2}\d(?:[\s().\-/+]{0,5}\d){6,}")
_GROUP = re.compile(r"\d+")
_DASHES = re.compile(r"[\u2010-\u2015\u2212\u2043]")
_YEAR = re.compile(r"(?:19|20)\d\d")
_MOST_GROUPS = 10


def mask(text: str, kinds: Collection[str] = KINDS, regions: Sequence[str] = ()) -> tuple[str, frozenset[str]]:
    """Return ``text`` with what is personal as ``<email>``, ``<iban>``, ..., and which of ``kinds`` it had.

    Where nothing is found the text comes back as it was; else it is in Unicode's form NFKC, without invisible
    characters. Masking again changes nothing.

    Args:
        text: a query as it was typed.
        kinds: which of ``KINDS`` to look for.
        regions: ISO 3166 codes of the numbering plans by which national telephone numbers are told.

    Example:
        >>> mask("call +49 (0) 170 - 12 34 56 7 about 205 55 16 91 tyres")
        ('call <phone> about 205 55 16 91 tyres', frozenset({'phone'}))
    """
    found: set[str] = set()

    def masked(kind: str) -> str:
        found.add(kind)
        return f"<{kind}>"

    plain = unicodedata.normalize("NFKC", text)
    plain = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    plain = _DASHES.sub("-", plain)
    if "email" in kinds:
        plain = _EMAIL.sub(lambda _: masked("email"), plain)
    if "iban" in kinds:
        plain = _IBAN.sub(lambda match: _without_iban(match[0], masked), plain)
    plain = _RUN.sub(lambda match: _without_numbers(match[0], kinds, regions, masked), plain)
    return (plain, frozenset(found)) if found else (text, frozenset())


def _without_iban(text: str, masked: Callable[[str], str]) -> str:
    """The longest beginning that is an IBAN becomes its mask: words may follow it."""
    for end in sorted((match.end() for match in re.finditer(r"[^\W_]+", text)), reverse=True):
        if iban.is_valid(text[:end].replace(".", ""), check_country=False):
            return masked("iban") + text[end:]
    return text


def _without_numbers(run: str, kinds: Collection[str], regions: Sequence[str], masked: Callable[[str], str]) -> str:
    """Each stretch of whole groups of digits that is a card, a telephone or a number becomes its mask."""
    groups = list(_GROUP.finditer(run))
    starts = [_start(run, group) for group in groups]
    told = {"card": _is_card, "phone": lambda text: _is_telephone(text, regions), "number": _is_number}
    parts, begin, first = [], 0, 0
    while first < len(groups):
        lasts = range(min(first + _MOST_GROUPS, len(groups)) - 1, first - 1, -1)  # the longest stretch first
        stretches = ((kind, last) for kind in told if kind in kinds for last in lasts)
        for kind, last in stretches:
            if told[kind](_ascii(run[starts[first] : groups[last].end()])):
                parts += [run[begin : starts[first]], masked(kind)]
                begin, first = groups[last].end(), last
                break
        first += 1
    return "".join([*parts, run[begin:]])


def _start(run: str, group: re.Match[str]) -> int:
    """Where the plus or bracket before a group stands, or else the group."""
    return len(run[: group.start()].rstrip("+("))


def _ascii(text: str) -> str:
    return "".join(str(int(character)) if character.isdecimal() else character for character in text)


def _is_sizes(groups: Sequence[str]) -> bool:
    """Whether these are years, round numbers, or one number with its thousands apart."""
    return (
        all(_YEAR.fullmatch(group) for group in groups)
        or (len(groups) > 1 and all(group.endswith("0") for group in groups))
        or set("".join(groups[1:])) == {"0"}
    )


def _is_card(text: str) -> bool:
    groups = _GROUP.findall(text)
    digits = "".join(groups)
    written = 13 <= len(digits) <= 19 and all(len(group) > 2 for group in groups[:-1]) and not _is_sizes(groups)
    return written and digits[0] in "23456" and bool(luhn.is_valid(digits))


def _is_number(text: str) -> bool:
    groups = _GROUP.findall(text)
    quads = len(groups) > 3 and all(len(group) == 4 for group in groups) and not _is_sizes(groups)
    return (len(groups) == 1 and len(groups[0]) > 6) or quads or (len(text) == 11 and bool(ssn.is_valid(text)))


def _is_telephone(text: str, regions: Sequence[str]) -> bool:
    text = re.sub(r"^\(0\)\s*", "0", text)
    groups = _GROUP.findall(text)
    digits, sizes = "".join(groups), [len(group) for group in groups]
    if not 7 <= len(digits) <= 16 or not digits.strip("0"):
        return False
    if text.lstrip("(").startswith("+"):
        return _is_international(text)
    if len(groups) == 1:
        return False
    if digits.startswith("00") and _is_international(text.replace("00", "+", 1)):
        return True
    marks = set(re.sub(r"[\d()\s]", "", text))  # what stands between the groups but blanks
    if text.startswith("("):
        return sizes[0] in range(2, 6) and len(digits) <= 12 and len(marks) <= 1
    if digits[0] == "0":
        after_area = set(re.findall(r"(?<=\d)\D+(?=\d)", text)[1:])
        dots = marks == {"."} or "." not in marks
        return sizes[0] > 1 and 9 <= len(digits) <= 12 and len(after_area) <= 1 and dots
    if _is_sizes(groups) or len(groups) > 5 or max(sizes) < 3:
        return False
    if sizes[-3:] in ([3, 3, 4], [3, 4, 4]) and groups[:-3] in ([], ["1"]) and len(marks) == 1 and " " not in text:
        return True
    return any(_is_written_as(text, groups, region) for region in regions)


def _is_international(text: str) -> bool:
    number = "+" + re.sub(r"\(0\)|\D", "", text)
    try:
        return bool(phonenumbers.is_possible_number(phonenumbers.parse(number)))
    except phonenumbers.NumberParseException:
        return False


def _is_written_as(text: str, groups: Sequence[str], region: str) -> bool:
    """Whether ``text`` is a number of the region, in groups of digits as its numbering plan writes them."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return False
    national, abroad = (
        _GROUP.findall(phonenumbers.format_number(number, form))
        for form in (PhoneNumberFormat.NATIONAL, PhoneNumberFormat.INTERNATIONAL)
    )
    written = [national, abroad, *([abroad[1:]] if len("".join(groups)) >= 10 else [])]
    return list(groups) in written and bool(phonenumbers.is_valid_number(number))
