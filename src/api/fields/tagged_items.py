"""Lists of items that differ by their `type`: blocks, items and parts of messages, and tools."""

from collections.abc import Callable
from typing import Any

from pydantic import BeforeValidator, StrictStr
from pydantic_core import PydanticCustomError

from src.middleware.ignored_fields import ignored_fields

MAX_CHECKED_ITEMS = 2048
"""Longer lists are refused for their length."""

MAX_TYPE_LENGTH = 40


def known_types(
    item_list: Any, *types: str, noun: str, from_text: Callable[[str], dict[str, Any]]
) -> BeforeValidator:
    """Returns a validator that refuses items of other types by name.

    A union's own error would list the problems of all its members. An item without a type is left
    to the union.

    Args:
        item_list: annotation of the list, for the JSON schema.
        types: known types.
        noun: word for an item, for the error.
        from_text: converts a text, sent in place of the list, into its only item.
    """

    def check(value: object) -> object:
        if isinstance(value, str):
            return [from_text(value)]
        items = value[:MAX_CHECKED_ITEMS] if isinstance(value, list) else []
        for index, item in enumerate(items):
            item_type = item.get("type") if isinstance(item, dict) else None
            if isinstance(item_type, str) and item_type not in types:
                raise _unknown_type(noun, index, item_type, types)
        return value

    return BeforeValidator(check, json_schema_input_type=StrictStr | item_list)


def _unknown_type(
    noun: str, index: int, item_type: str, types: tuple[str, ...]
) -> PydanticCustomError:
    shown = item_type[:MAX_TYPE_LENGTH].encode("utf-8", "replace").decode()
    return PydanticCustomError(
        "unsupported_parameter",
        "{noun} {index} is of type {type}, which is not supported here; supported: {types}",
        {"noun": noun, "index": index, "type": shown, "types": ", ".join(types)},
    )


def only_tools_of_clients(client_type: str) -> BeforeValidator:
    """Returns a validator that leaves tools out which a server would run, and records them.

    Where unknown fields are refused, so are these tools.

    Args:
        client_type: type of the tools that clients run.
    """

    def check(value: object) -> object:
        ignored = ignored_fields()
        if ignored is None or ignored.refuses_unknown or not isinstance(value, list):
            return value
        kept = []
        for index, tool in enumerate(value):
            kind = tool.get("type") if isinstance(tool, dict) else None
            if isinstance(kind, str) and kind != client_type:
                ignored.unknown[f"tools[{index}] ({kind})"] = None
            else:
                kept.append(tool)
        return kept

    return BeforeValidator(check)


def tag_by_type(*types: str, default: str) -> Callable[[Any], str]:
    """Returns a function from an item to its tag in a union, such as `<text>`.

    Args:
        types: types that are tags.
        default: tag of all other items; errors are of that member of the union.
    """

    def tag(item: Any) -> str:
        item_type = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
        return f"<{item_type}>" if item_type in types else f"<{default}>"

    return tag
