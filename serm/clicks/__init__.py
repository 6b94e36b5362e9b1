"""Click models: what users find relevant, with the position they saw it at taken out of their clicks.

The engine reduces a log to numbers: how often each pair was shown and clicked at each position (``count``), and how
often each page was seen with the same clicks (``number``, ``pages.aggregate``). Four models are fitted to them, and
``fit`` picks the one that best foretells pages which it has not seen:

- ``pbm``, position-based: users look at a rank or not, whatever they clicked;
- ``ubm``, user browsing: how far they look also depends on where they clicked last;
- ``dbn``, dynamic Bayesian network: they read from the top until they are content or tired;
- ``sdbn``, its simplified form: nobody tires, and the last click contents. It only counts.

All say ``P(click | clicks above) = examination * attractiveness`` (``model.ClickModel``). R_cm, the relevance that the
click model agent reads, is what a document does for a user who examines it: attractiveness, and with a model that
knows what happens after the click, attractiveness * satisfaction. docs/click-models.md helps to choose.
"""

from serm.clicks.choice import MODELS, Estimates, fit
from serm.clicks.counts import IMPRESSION, PAIR, ClickCounts, beyond, count
from serm.clicks.model import ClickModel
from serm.clicks.pages import number

__all__ = [
    "IMPRESSION",
    "MODELS",
    "PAIR",
    "ClickCounts",
    "ClickModel",
    "Estimates",
    "beyond",
    "count",
    "fit",
    "number",
]
