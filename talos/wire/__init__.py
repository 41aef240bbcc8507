"""Bytes on the wire: varints, length prefixes and generated messages."""
