"""What happens to rows."""
