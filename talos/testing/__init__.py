"""Conformance suites and harnesses for implementations of the seams in `talos.abc`: yours as well as ours."""
