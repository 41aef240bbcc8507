"""Security: an authenticated, encrypted channel of any byte stream."""
