"""One file a protocol: it writes requests and reads answers; and the transport under them."""
