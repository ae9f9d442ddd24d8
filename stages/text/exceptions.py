"""The text of any exception, also of one that fails to describe itself."""

_LONGEST = 500


def text_of(exc: BaseException, longest: int = _LONGEST) -> str:
    """Return an exception's text, by default at most 500 characters; of a group also those of its members. Never
    raises: an exception may have no text, or raise in `__str__`."""
    text = _str_of(exc)
    if isinstance(exc, BaseExceptionGroup):
        text = f"{text}: " + "; ".join(f"{type(part).__name__}: {_str_of(part)}" for part in exc.exceptions[:5])
    return text[:longest]


def _str_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as failure:  # noqa: BLE001  a description must not fail
        return f"(no text: its __str__ raised {type(failure).__name__})"
