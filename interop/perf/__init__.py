"""The `perf` image of unified-testing."""
