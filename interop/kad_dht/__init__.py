"""The `kad-dht` image of unified-testing."""
