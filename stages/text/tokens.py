"""Tokens where no tokenizer is at hand: four bytes of UTF-8 each, rounded up. Texts of any language come near it."""

BYTES_PER_TOKEN = 4


def tokens_of_bytes(size: int) -> int:
    """How many tokens `size` bytes are taken for."""
    return -(-size // BYTES_PER_TOKEN)


def tokens(text: str) -> int:
    """How many tokens a text is taken for; half of a surrogate pair counts as it comes."""
    return tokens_of_bytes(len(text.encode("utf-8", "surrogatepass")))
