"""What has been answered, and paid for: records, the segments they are kept in, and what is known from them."""
