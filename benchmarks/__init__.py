"""Measurements of the sandbox, one command each: ``python -m benchmarks.<name>``; ``make bench`` runs all."""
