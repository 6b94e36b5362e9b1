"""The annotate component."""
