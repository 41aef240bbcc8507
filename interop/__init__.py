"""Talos beside libp2p stacks that others wrote, and the contracts of the official harnesses."""
