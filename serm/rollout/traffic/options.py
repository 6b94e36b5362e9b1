"""A backend's own settings, checked as params.yaml's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from serm.errors import UserError
from serm.settings.section import Section

S = TypeVar("S", bound=Section)


def parse(model: type[S], options: Mapping[str, Any]) -> S:
    """Return ``rollout.traffic_options`` as the backend's ``model``.

    Raises:
        UserError: a field is unknown, missing or out of its bounds.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors(include_url=False))
        raise UserError(f"params.yaml: rollout.traffic_options: {'; '.join(problems)}.") from error
