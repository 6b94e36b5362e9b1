"""SERM keeps a search engine's relevance model true to what people search for now."""
