"""The host: a running node, and the parts that it is made of."""
