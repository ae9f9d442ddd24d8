"""Estimate tokens without a tokenizer: four bytes of UTF-8 each, rounded up. It is near for any language."""

BYTES_PER_TOKEN = 4


def tokens_of_bytes(size: int) -> int:
    """Return the estimated tokens of `size` bytes."""
    return -(-size // BYTES_PER_TOKEN)


def tokens(text: str) -> int:
    """Return the estimated tokens of a text; half of a surrogate pair counts, too."""
    return tokens_of_bytes(len(text.encode("utf-8", "surrogatepass")))
