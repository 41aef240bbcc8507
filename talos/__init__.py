"""Talos: a libp2p networking stack on trio."""

__version__ = "0.1.0.dev0"
