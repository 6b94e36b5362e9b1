"""LLM judges: asked over the OpenAI-compatible API, within limits and a budget, and never twice the same."""
