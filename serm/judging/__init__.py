"""The multi-agent relevance annotator: judges that grade mined pairs, and what must hold before a grade counts.

Each judge grades by its own kind of evidence (level 1: a majority over its sampled paths); the panel keeps a
pair where its judges agree (level 2) and sends every other pair to the review queue. The default panel is offline;
LLM judges (``llm``) sit on it where ``judging.llms`` names endpoints.

torch, scikit-learn and crowd-kit are imported by what uses them: ``serm review`` answers without them.
"""

from serm.judging.annotate import annotate
from serm.judging.llm.estimate import estimate

__all__ = ["annotate", "estimate"]
