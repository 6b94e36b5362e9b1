"""The container images that the components run in; each has ``serm`` and kfp installed."""

_REGISTRY = "ghcr.io/serm-relevance"

DATA = f"{_REGISTRY}/serm-data:0.2.0-python3.11"
#: Has the extra ``drift`` too, which embeds queries and draws with Evidently; and git and DVC, for the workspace.
TRAIN = f"{_REGISTRY}/serm-train:0.2.0-python3.11"
JUDGE = f"{_REGISTRY}/serm-judge:0.2.0-python3.11"
SERVE = f"{_REGISTRY}/serm-serve:0.2.0-python3.11"
