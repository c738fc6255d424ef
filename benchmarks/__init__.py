"""Benchmarks of the check of a key: ``python -m benchmarks``. See docs/explanation/performance.rst."""
