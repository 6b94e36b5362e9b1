"""Relevance models: how well a document answers a query, as a distribution over the four grades."""

from serm.relevance.encoder import Encoder, document_text, load_encoder
from serm.relevance.model import RelevanceModel, Scores, load

__all__ = ["Encoder", "RelevanceModel", "Scores", "document_text", "load", "load_encoder"]
