"""The section ``engine`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serm.settings.section import Section, Threads


class EngineSettings(Section):
    """The query engine that reads logs; no field changes a result."""

    kind: Literal["duckdb", "spark"] = "duckdb"
    """``spark`` starts Spark in this process, or takes the session that runs there."""
    remote: str | None = None
    """Of Spark: a Spark Connect server (``sc://host:15002``) that runs the plan, on the same paths as here."""
    threads: Threads = 2
    """Of DuckDB, or of a Spark that runs in this process."""
    memory_gb: Annotated[float, Field(ge=0.1, le=65536)] = 2.0
    """What the engine may hold in memory; the rest spills to the temporary directory."""
