"""One file for each page: a request in, a response out."""
