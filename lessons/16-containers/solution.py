"""An answer to exercise 16."""

import re


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Returns instructions with the rest of their lines."""
    text = re.sub(r"^\s*#.*\n?", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def is_unpinned(base: str) -> bool:
    """Returns True if a base has no tag, or the tag `latest`."""
    _, _, tag = base.rpartition("/")[2].partition(":")
    return tag in ("", "latest") and "@" not in base


def problems(dockerfile: str) -> set[str]:
    """Returns the mistakes in a Dockerfile."""
    found: set[str] = set()
    names: set[str] = set()
    stages: list[list[tuple[str, str]]] = []
    for instruction, rest in instructions(dockerfile):
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            if base.strip() not in names and "$" not in base and is_unpinned(base.strip()):
                found.add("latest")
            names.add(name.strip())
            stages.append([])
        elif stages:
            stages[-1].append((instruction, rest))
        if instruction == "ENV" and re.search(r"\w*(PASSWORD|SECRET|TOKEN)\w*[= ]\s*\S", rest):
            found.add("secret")
    for stage in stages:
        copies = [n for n, (one, rest) in enumerate(stage) if one == "COPY" and rest[:2] == ". "]
        installs = [n for n, (one, rest) in enumerate(stage) if "pip install" in rest]
        if copies and installs and copies[0] < installs[0]:
            found.add("order")
    users = [rest for one, rest in stages[-1] if one == "USER"]
    if not users or users[-1].partition(":")[0] in ("root", "0"):
        found.add("root")
    commands = [rest for one, rest in stages[-1] if one == "CMD"]
    if not commands or not commands[-1].startswith("["):
        found.add("shell")
    return found
