"""The node of the gossipsub-interop simulations (test-plans)."""
