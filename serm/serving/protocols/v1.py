"""KServe's v1 protocol: an instance is a query and a document's text, in JSON."""

from __future__ import annotations

from kserve.errors import InvalidInput

from serm.serving.protocols.request import Answer, Request, Scored, as_json, as_text, few_enough, json_object
from serm.settings.serving import PredictorSettings

_TEXTS = ("query", "document")


class V1Request(Request):
    """A request of ``:predict``."""

    def answer(self, scored: Scored, name: str, version: str) -> Answer:
        """Write the predictions: score, the expected grade (0 to 3), and distribution, Pr(grade)."""
        both = zip(scored.scores.expected.tolist(), scored.scores.distribution.tolist(), strict=True)
        predictions = [{"score": score, "distribution": distribution} for score, distribution in both]
        truncated = {"truncated": scored.cut} if scored.cut else {}
        return as_json({"predictions": predictions, "model_version": version, **truncated})


def read(data: bytes, limits: PredictorSettings) -> V1Request:
    """Return the pairs of a body; raises ``InvalidInput`` or ``TooLarge``."""
    instances = json_object(data).get("instances")
    if not isinstance(instances, list):
        raise InvalidInput('instances: expected {"instances": [{"query": "...", "document": "..."}]}.')
    few_enough(len(instances), "instances", limits.max_request_pairs)
    texts: tuple[list[str], list[str]] = ([], [])
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise InvalidInput(f'instances[{row}]: expected an object with "query" and "document".')
        for name, column in zip(_TEXTS, texts, strict=True):
            if name not in instance:
                raise InvalidInput(f'instances[{row}].{name}: missing; a pair is a "query" and a "document".')
            column.append(as_text(instance[name], f"instances[{row}].{name}", limits.max_text_characters))
    return V1Request(*texts)
