"""What a check costs: ``python -m benchmarks``. See docs/performance.rst."""
