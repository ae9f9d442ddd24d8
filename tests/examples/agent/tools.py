"""What the model may do: look an order up, and count days. Nothing else."""

from typing import Annotated, Any

from pydantic import Field

_ORDERS = {1001: {"item": "lamp", "sent": True}, 1002: {"item": "chair", "sent": False}}


def order(number: Annotated[int, Field(ge=1000, le=9999)]) -> dict[str, Any]:
    """An order by its number: item, and whether it was sent."""
    if number not in _ORDERS:
        raise LookupError(f"there is no order {number}")
    return _ORDERS[number]


async def delivery_days(country: str) -> int:
    """How many days a parcel takes to a country (two letters)."""
    return {"DE": 2, "FR": 3}.get(country.upper(), 7)
