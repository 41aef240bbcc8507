"""What everything that carries muxed streams shares: their trio half, and how they are charged."""
