"""The review queue: what the panel could not agree on, for a person to grade; on a small page, or in another tool."""

from serm.judging.review.formats import FORMATS, read_grades, write_tasks
from serm.judging.review.page import application, serve
from serm.judging.review.reviews import Item, Reviews

__all__ = ["FORMATS", "Item", "Reviews", "application", "read_grades", "serve", "write_tasks"]
