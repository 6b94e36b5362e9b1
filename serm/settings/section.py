"""What all sections of params.yaml share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Grade = Annotated[float, Field(ge=0, le=3)]


class Section(BaseModel):
    """A section of params.yaml: an unknown field is an error, so a typing slip cannot pass unseen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
