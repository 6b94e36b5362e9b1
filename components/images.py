"""The container images that the components run in; each has ``serm`` and kfp installed."""

_REGISTRY = "ghcr.io/serm-relevance"

DATA = f"{_REGISTRY}/serm-data:0.2.0-python3.11"
#: Has the extras ``drift`` (embeds queries, draws with Evidently) and ``serve`` too, so it serves trained models; and
#: git and DVC, for the workspace.
TRAIN = f"{_REGISTRY}/serm-train:0.2.0-python3.11"
JUDGE = f"{_REGISTRY}/serm-judge:0.2.0-python3.11"
#: No step: the transformer, what fetches models, and the server of exported models, without torch.
SERVE = f"{_REGISTRY}/serm-serve:0.2.0-python3.11"
