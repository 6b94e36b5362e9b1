"""Data to run on, and simulated users: the emoji world with its hidden truth.

No step imports this package (import-linter holds it), so no model, miner or judge can reach the truth.
"""
