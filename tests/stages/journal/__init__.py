"""Records and what is known of them."""
