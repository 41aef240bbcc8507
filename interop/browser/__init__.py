"""js-libp2p in Chromium against Talos over WebSockets."""
