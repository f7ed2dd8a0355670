"""The local page and its HTTP API; needs the packages of the extra `serve`."""
