"""Query-document pairs, the same for every step: one spelling of a query, one search by words, one way to its document.

``text.fold`` says when two texts are the same, ``tokens`` what words they share, ``bm25`` which texts share most with a
query, and ``documents.join`` puts pairs beside their documents.
"""
