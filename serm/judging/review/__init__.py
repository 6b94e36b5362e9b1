"""The review queue: what the panel could not agree on, for a person to grade; on a small page, or in another tool."""

from serm.judging.review.exports import Export, read_export
from serm.judging.review.formats import LABEL_STUDIO_CONFIG, write_tasks
from serm.judging.review.page import application, listen, serve
from serm.judging.review.reviews import Answer, Item, Reviews, Taken

__all__ = [
    "LABEL_STUDIO_CONFIG",
    "Answer",
    "Export",
    "Item",
    "Reviews",
    "Taken",
    "application",
    "listen",
    "read_export",
    "serve",
    "write_tasks",
]
