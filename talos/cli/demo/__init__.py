"""The demonstration: real agents, real tools, and each claim checked before it is printed."""
