"""From a file's ratings to grades: by their own values, by a map, or by bands."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from serm.errors import UserError

Rating = float | str
"""A finite number, or a label in upper case."""
GRADES = (0.0, 1.0, 2.0, 3.0)
"""The rating of each grade, where a list uses the grades themselves."""
_LABELS: Mapping[Rating, int] = {
    **{f"L{grade}": grade for grade in range(4)},  # NTCIR
    **{"I": 0, "C": 1, "S": 2, "E": 3},  # ESCI, as in its own tables and in words
    **{"IRRELEVANT": 0, "COMPLEMENT": 1, "SUBSTITUTE": 2, "EXACT": 3},
}
_OWN: Mapping[Rating, int] = {**{rating: grade for grade, rating in enumerate(GRADES)}, **_LABELS}
_FORMS = (
    "expected four different numbers (0,1,10,100), a map to the grades 0 to 3 ('0=-1,0;1=1;2=2;3=3,4'), "
    "or three rising cuts between the grades (0.25,0.5,0.75)"
)
_SHOWN = 12


@dataclass(frozen=True)
class Scale:
    """Which grade a rating is: the one that it is mapped to, or the number of cuts that it reaches."""

    grades: Mapping[Rating, int] = field(default_factory=dict)
    cuts: Sequence[float] = ()

    def grade(self, rating: Rating) -> int | None:
        """Return the grade, 0 to 3, or None: the rating is none of this scale's."""
        if self.cuts:
            return bisect_right(self.cuts, rating) if isinstance(rating, float) else None
        return self.grades.get(rating)


def scale(option: str) -> Scale:
    """Return the scale that ``option`` says, in one of three forms (``_FORMS``).

    Raises:
        UserError: it has none of the forms.
    """
    grades: dict[Rating, int] = {}
    cuts: list[float] = []
    values = [rating_of(part) for part in option.split(",")]
    if "=" in option:
        grades = _mapped(option)
    elif all(isinstance(value, float) for value in values):
        numbers = [value for value in values if isinstance(value, float)]
        if len(numbers) == 4 and len(set(numbers)) == 4:
            grades = {number: grade for grade, number in enumerate(numbers)}
        elif len(numbers) == 3 and numbers == sorted(set(numbers)):
            cuts = numbers
    if not grades and not cuts:
        raise UserError(f"--ratings {option}: {_FORMS}.")
    return Scale(grades, cuts)


def _mapped(option: str) -> dict[Rating, int]:
    grades: dict[Rating, int] = {}
    for part in filter(None, (part.strip() for part in option.split(";"))):
        grade, equals, ratings = part.partition("=")
        for rating in map(rating_of, ratings.split(",")):
            if not equals or grade.strip() not in {"0", "1", "2", "3"} or rating is None or rating in grades:
                raise UserError(f"--ratings {option}: {part!r} is not a grade and its ratings; {_FORMS}.")
            grades[rating] = int(grade)
    return grades


def known(named: str, ratings: Iterable[Rating]) -> Scale:
    """Return the scale of ``ratings`` that need no map: 0 to 3, NTCIR's L0 to L3, ESCI's labels.

    A label that is none of these is the fault of its row, as long as other rows have known ratings; a number is not,
    for it tells of another scale.

    Raises:
        UserError: there are other numbers, or nothing but unknown labels; the sentence has the option to give.
    """
    found = set(ratings)
    strange = {rating for rating in found if rating not in _OWN}
    if strange and (found == strange or any(isinstance(rating, float) for rating in strange)):
        raise UserError(
            f"{named}: its ratings are {_shown(found)}; say which are grade 0, 1, 2 and 3, for example "
            f"--ratings '{_example(found)}'."
        )
    return Scale(_OWN)


def _shown(found: set[Rating]) -> str:
    numbers = sorted(rating for rating in found if isinstance(rating, float))
    labels = sorted(rating for rating in found if isinstance(rating, str))
    if len(numbers) > _SHOWN:
        told = [f"{len(numbers)} numbers from {numbers[0]:g} to {numbers[-1]:g}"]
    else:
        told = [f"{number:g}" for number in numbers]
    told += [repr(label[:20]) for label in labels[:_SHOWN]] + (["..."] if len(labels) > _SHOWN else [])
    return ", ".join(told)


def _example(found: set[Rating]) -> str:
    numbers = sorted(rating for rating in found if isinstance(rating, float))
    labels = sorted(rating for rating in found if isinstance(rating, str))[:4]
    if numbers and (len(numbers) > _SHOWN or any(number % 1 for number in numbers)):
        low, high = min(0.0, numbers[0]), numbers[-1]
        return ",".join(f"{low + share * (high - low):g}" for share in (0.25, 0.5, 0.75))
    low_numbers = [number for number in numbers if number <= 0]
    above = [number for number in numbers if number > 0]
    groups: list[list[Rating]] = [[label] for label in labels]
    if numbers:
        groups = [list(some) for some in (low_numbers, above[:1], above[1:2], above[2:])]
    return ";".join(
        f"{grade}=" + ",".join(f"{one:g}" if isinstance(one, float) else one for one in group)
        for grade, group in enumerate(groups)
        if group
    )


def rating_of(value: object) -> Rating | None:
    """Return ``value`` as a rating: a finite number, or a label; None where it is neither."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        label = str(value).strip().upper()
        return label or None if isinstance(value, str) else None
    return number if math.isfinite(number) else None


def is_rating(value: object) -> bool:
    """Whether ``value`` looks like a rating: a number, or a label that is known."""
    rating = rating_of(value)
    return isinstance(rating, float) or rating in _LABELS
