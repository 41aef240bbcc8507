"""Files: offered in a sealed message, pulled in verified chunks."""
