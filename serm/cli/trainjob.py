"""``serm trainjob``."""

from __future__ import annotations

from serm.cli.options import Params
from serm.layout import PARAMS


def trainjob(params: Params = PARAMS) -> None:
    """Print the Kubeflow TrainJob that runs this cycle's `serm train` on a cluster."""
    import yaml

    from serm import settings
    from serm.trainjob import train_job

    print(yaml.safe_dump(train_job(settings.load(params)), sort_keys=False), end="")
