"""The `transport` image of unified-testing, and of test-plans before it."""
