"""Offline evaluation: measures, their uncertainty, and the promotion gate. Scores and judgments in, a verdict out."""
