"""Figures against the goals: `uv run python -m benchmarks.run`. `README.md` says what is measured, and how."""
