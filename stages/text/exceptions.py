"""What an exception of somebody else's says of itself, whatever it is."""

_LONGEST = 500


def text_of(exc: BaseException, longest: int = _LONGEST) -> str:
    """Its own words, by default at most 500 characters; of a group also those of what it holds. Never raises: an
    exception may have no words, or raise when it is asked for them."""
    said = _own_words(exc)
    if isinstance(exc, BaseExceptionGroup):
        said = f"{said}: " + "; ".join(f"{type(one).__name__}: {_own_words(one)}" for one in exc.exceptions[:5])
    return said[:longest]


def _own_words(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as why:  # noqa: BLE001  it is being described, and that must not fail
        return f"(it cannot say what it is: its __str__ raised {type(why).__name__})"
