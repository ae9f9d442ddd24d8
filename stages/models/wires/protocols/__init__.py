"""One file a protocol: it writes a request's body and reads an answer's, and sends nothing itself."""
