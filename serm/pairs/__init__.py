"""Query-document pairs, the same for every step: one spelling of a query, and one way to its document.

``text.fold`` says when two texts are the same, ``documents.join`` puts pairs beside their documents.
"""
