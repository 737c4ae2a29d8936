"""Imports between the rooms of src are those of tests/support/layers.py, and no others."""

from pathlib import Path

import pytest

from tests.support.layers import ROOMS, SRC, imported_modules, room_of

FILES = [path for path in sorted(SRC.rglob("*.py")) if path != SRC / "__init__.py"]


def is_inside(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_what_its_rules_allow(name):
    rules = ROOMS[name]
    for path in FILES:
        if room_of(path) != name:
            continue
        modules = [*imported_modules(path)]
        own = [module.removeprefix("src.") for module in modules if is_inside(module, "src")]
        for module in own:
            allowed = module == "src" or any(is_inside(module, one) for one in rules.imports)
            assert allowed or room_of(SRC / Path(*module.split("."))) == name, (
                f"{path.relative_to(SRC)} imports {module}"
            )
        libraries = {module.partition(".")[0] for module in modules}
        assert not libraries & rules.never, path.relative_to(SRC)


def test_the_rules_cover_all_of_src():
    assert {room_of(path) for path in FILES} == set(ROOMS)


def test_the_rules_name_modules_that_are_there():
    for name in {*ROOMS, *(one for room in ROOMS.values() for one in room.imports)}:
        place = SRC.joinpath(*name.split("."))
        assert place.is_dir() or place.with_suffix(".py").exists(), name
