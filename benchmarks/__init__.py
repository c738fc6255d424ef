"""Benchmarks of the check of a key: ``python -m benchmarks``. See docs/performance.rst."""
