"""The `hole-punch` images of unified-testing: a peer behind a NAT, and the relay."""
