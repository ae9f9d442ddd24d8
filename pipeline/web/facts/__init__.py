"""What pages show, read from stores: no request, no template."""
