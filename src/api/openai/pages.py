"""Lists with OpenAI's cursors: `after`, `limit`, `has_more`."""

from collections.abc import Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field


class Item(BaseModel):
    """Base of items of a list."""

    id: str


ItemT = TypeVar("ItemT", bound=Item)


class ItemPage(BaseModel, Generic[ItemT]):
    """A part of a list."""

    object: Literal["list"] = "list"
    data: list[ItemT]
    first_id: str | None = Field(description="Id of the first item.")
    last_id: str | None = Field(description="Id of the last item, for `after` of the next page.")
    has_more: bool = Field(description="There is another page.")

    @classmethod
    def of(cls, items: Sequence[ItemT], *, has_more: bool) -> Self:
        """Returns a page of these items."""
        first, last = (items[0].id, items[-1].id) if items else (None, None)
        return cls(data=list(items), first_id=first, last_id=last, has_more=has_more)
