"""One file a protocol: how a request is written for it and its answers are read; and the transport under them."""
