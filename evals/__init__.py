"""Evaluations, one per file: `python -m evals NAME`."""
