"""Check of exercise 18."""

from pathlib import Path
from typing import Any

import yaml

HASH = "9c091bb21b7c1c1d1991bb908d89e4e9dddfe3e0"
GOOD = f"""\
"on": {{push: {{branches: [main]}}, pull_request: null}}
permissions: {{}}
jobs:
  test:
    timeout-minutes: 10
    steps:
      - uses: actions/checkout@{HASH}
      - run: make test
"""
CHANGES = [
    ("", "", set()),
    (f"checkout@{HASH}", "checkout@v7", {"unpinned"}),
    (f"checkout@{HASH}", "checkout@" + HASH[:7], {"unpinned"}),
    (f"checkout@{HASH}", "checkout", {"unpinned"}),
    (f"actions/checkout@{HASH}", "./actions/prepare", set()),
    ("permissions: {}\n", "", {"rights"}),
    ("permissions: {}\n", "permissions: write-all\n", {"rights"}),
    ("    timeout-minutes: 10", "    timeout-minutes: 10\n    permissions: write-all", {"rights"}),
    ("    timeout-minutes: 10", "    permissions: {}", {"endless"}),
    ("run: make test", "run: make test\n        env: {KEY: '${{ secrets.KEY }}'}", {"secret"}),
]


def check(answer: dict[str, Any]) -> None:
    """Tries a good workflow, changes of it, and this project's."""
    problems = answer["problems"]
    for before, after, expected in CHANGES:
        text = GOOD.replace(before, after) if before else GOOD
        given = problems(yaml.safe_load(text))
        assert given == expected, f"{expected or 'nothing'}, not {given}, is unsafe in\n{text}"
    own = GOOD.replace("permissions: {}\n", "").replace(
        "    steps", "    permissions: {}\n    steps"
    )
    assert problems(yaml.safe_load(own)) == set(), f"Nothing is unsafe in\n{own}"
    for triggers, expected in [("push", set()), ("[push, pull_request]", {"secret"})]:
        text = GOOD.replace("{push: {branches: [main]}, pull_request: null}", triggers)
        text = text.replace("make test", "make deploy ${{ secrets.KEY }}")
        given = problems(yaml.safe_load(text))
        assert given == expected, f"{expected or 'nothing'}, not {given}, is unsafe in\n{text}"
    for path in sorted(Path(".github/workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text())
        workflow["on"] = workflow.pop(True)
        given = problems(workflow)
        assert given == set(), f"In {path} it finds {given}."
