"""Why the stock of a product changed, other than by an order."""

from enum import StrEnum


class Adjustment(StrEnum):
    """The `reason` of a row of stock_adjustments. A new one needs a migration: the table checks them."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> "Adjustment":
        adjustment = str.__new__(cls, name)
        adjustment._value_, adjustment.meaning = name, meaning
        return adjustment

    CREATION = "creation", "The product was created with this stock."
    RESTOCK = "restock", "Units were added to what is there."
    CORRECTION = "correction", "The stock was set to a number."
    CANCELLATION = "cancellation", "A client cancelled a processed order, which the row names."
