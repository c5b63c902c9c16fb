"""Image networks, one family a file; importing this folder registers them all in `MODELS`."""
