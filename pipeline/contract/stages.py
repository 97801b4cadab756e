"""The stages of an order, and of its cancellation, that can park it as a dead letter."""

from enum import StrEnum


class Stage(StrEnum):
    """A stage, as `dead_letters.stage`, metrics and `./headrace dead --stage` name it."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> "Stage":
        stage = str.__new__(cls, name)
        stage._value_, stage.meaning = name, meaning
        return stage

    PERSIST = "persist", "persist_worker could not store the order"
    STOCK = "stock", "product_consumer could not decide the order"
    CANCEL = "cancel", "product_consumer could not read the cancellation; its order goes on without it"
