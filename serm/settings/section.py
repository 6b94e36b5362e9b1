"""What all sections of params.yaml share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Amount = Annotated[float, Field(ge=0, le=1_000_000_000)]
"""None or some, in the unit that the field names."""
Positive = Annotated[float, Field(gt=0, le=1_000_000_000)]
Threads = Annotated[int, Field(ge=1, le=256)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
RegisteredName = Annotated[str, Field(pattern=r"^\w[\w .:/-]{0,39}$")]


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]!r} stands there twice")
    return names


RegisteredNames = Annotated[tuple[RegisteredName, ...], AfterValidator(_each_once)]
"""Names of entry points that other packages register: what is installed and named here takes part."""
Grade = Annotated[float, Field(ge=0, le=3)]


class Section(BaseModel):
    """A section of params.yaml: an unknown field is an error, so a typing slip cannot pass unseen.

    All numbers are finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML takes yes, no, on and off for true and false, which would count as 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is no value of it; if it stands for a text, put quotes around it")
        return value
