"""Messages and files between identities, sealed end to end."""
