"""Writes the tables of the documentation that follow from the code: `make docs`."""

import re
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from src.config import Settings

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """The table of all settings in docs/configuration.md."""
    rows = ["| Variable | Values | Default | Meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(
            f"| `{name.upper()}` | {_values(field)} | {_default(field)} | {field.description} |"
        )
    return "\n".join(rows) + "\n"


def _values(field: FieldInfo) -> str:
    """What a setting may be, in words."""
    annotation = field.annotation
    if isinstance(annotation, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return ", ".join(_code(value) for value in get_args(annotation))
    kind = {int: "integer", float: "number", bool: "`true`, `false`"}.get(annotation, "text")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(rule, key):g}"
        if isinstance(getattr(rule, key), float)
        else f"{sign} {getattr(rule, key)}"
        for rule in field.metadata
        for key, sign in signs.items()
        if getattr(rule, key, None) is not None
    ]
    return ", ".join([kind, *bounds])


def _default(field: FieldInfo) -> str:
    if field.default is None:
        return ""
    return _code(str(field.default).lower() if field.annotation is bool else str(field.default))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


TABLES = {"settings": settings_table}


def main() -> None:
    """Replaces what stands between the marks in every page."""
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        current = MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)
        if current != text:
            page.write_text(current)
            print(f"wrote {page.name}")


if __name__ == "__main__":
    main()
