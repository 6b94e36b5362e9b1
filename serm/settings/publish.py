"""The section ``publish`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serm.settings.section import Section

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$")]


class PublishSettings(Section):
    """Where a cycle goes beyond the workspace; DVC's objects always go to DVC's remote before git names them."""

    push: bool = False
    """Push branch and tag to the git remote ``remote`` too. A git URL as the pipeline's ``repository`` always is."""
    remote: _Name = "origin"
    """The git remote of a workspace on this machine."""
    branch: _Name | None = None
    """Of a git URL, the branch to publish to; without it, the repository's default branch."""
    directory: _Name | None = None
    """Of a git URL, the workspace within its repository; without it, the repository's root."""
    model_registry: Annotated[str, Field(pattern=r"^(https?://[^\s@]+)?$", max_length=1000)] = ""
    """The URL of Kubeflow's Model Registry, which is told of each model that passed the gate; empty: none. A token
    comes from the environment, ``SERM_MODEL_REGISTRY_TOKEN``."""
    dvc_remote: Annotated[str, Field(pattern=r"^([^\s@]+)?$", max_length=1000)] = ""
    """Of a git URL, the URL that stands in for DVC's default remote, as the run reaches it; empty: what the
    repository's ``.dvc/config`` names. Credentials come from the environment."""
