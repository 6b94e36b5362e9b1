"""Which experiment is on, as a file that is read again at SIGHUP: whoever ramps the challenger up writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from serm.errors import UserError
from serm.rollout.assignment import Experiment, exposure
from serm.settings.section import Section

Percent = Annotated[float, Field(ge=0, le=100)]


class Ramp(Section):
    """An experiment, and how many of its users the challenger has: YAML or JSON with these fields."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """The experiment's, such as the cycle's tag; it keys who is in which group."""
    percent: Percent
    interleave: bool = False
    """Whether the challenger's group sees both models' documents in turns, on one page, in the place of its own."""
    layer: Annotated[str, Field(max_length=200)] = ""
    low: Percent = 0.0
    high: Percent = 100.0
    """Its range of the layer's places, as ``serm.rollout.assignment.Experiment`` has it."""

    @property
    def experiment(self) -> Experiment:
        """The experiment; raises ``ValueError`` where its range is none."""
        return Experiment(self.name, self.layer, self.low, self.high)

    def exposure(self, user_id: str) -> dict[str, Any]:
        """Return the user's group and who serves it, in OpenFeature's words; the id is the log's keyed hash."""
        return exposure(user_id, self.experiment, self.percent)


def read(path: Path) -> Ramp:
    """Return the experiment that the file ``path`` holds.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        ramp = Ramp.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        _ = ramp.experiment
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); write the experiment there.") from error
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "its content"
        raise UserError(f"{path}: {where}: {wrong['msg']}; expected name, percent and perhaps a layer.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())[:200]}; mend it.") from error
    return ramp
