"""Make CSV cells that no spreadsheet computes, by OWASP's rule for CSV injection.

A cell that begins with = + - @, a tab or a carriage return is read as a formula; by some programs also after leading
blanks, and at the beginning of each line within the cell. A single quote in front makes it text.
"""

from collections.abc import Sequence

import polars as pl

# The wide forms of the first four and the typographic minus sign are read as the plain ones. Blanks include invisible
# characters.
_FORMULA = "(^|[\n\r])([\\p{Zs}\\p{Cf}\x0b\x0c]*)([=+\\-@\t\r\uff1d\uff0b\uff0d\uff20\u2212])"
_QUOTED = "${1}'${2}${3}"


def as_text(cells: pl.Expr) -> pl.Expr:
    """Return string cells with a quote wherever a formula could begin. Done twice, as one match may hide the next."""
    return cells.str.replace_all(_FORMULA, _QUOTED).str.replace_all(_FORMULA, _QUOTED)


def texts(cells: Sequence[str]) -> list[str]:
    """Return plain strings with a quote wherever a formula could begin."""
    return pl.DataFrame({"cell": cells}, schema={"cell": pl.String}).select(as_text(pl.col("cell")))["cell"].to_list()
