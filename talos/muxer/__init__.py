"""Many streams over one channel: a machine for each protocol, and one trio half for all of them."""
