"""One typed API to a running daemon, blocking and async."""
