"""Release notes and image names of a tag such as v1.2.3; needs nothing but Python.

    python -m deploy.release v1.2.3 notes                 # its part of CHANGELOG.md
    python -m deploy.release v1.2.3 tags                  # names of its image
    python -m deploy.release v1.2.3 tags --variant cuda

All of them fail if the tag is not the version in src/__init__.py, or if CHANGELOG.md has no part
for it.
"""

import argparse
import re
import sys
from pathlib import Path

from src import __version__

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"
FINAL = re.compile(r"\d+\.\d+\.\d+")


def find_notes(changelog: str, version: str) -> str:
    """Returns the changelog's part for exactly this version.

    Raises:
        ValueError: there is none.
    """
    for part in re.split(r"(?m)^## ", changelog)[1:]:
        heading, _, notes = part.partition("\n")
        if heading.split()[:1] in ([version], [f"[{version}]"]) and notes.strip():
            return notes.strip()
    raise ValueError(f"CHANGELOG.md has nothing under `## {version}`")


def image_tags(version: str, variant: str = "") -> list[str]:
    """Returns the image's tags: `latest` is the last final version, never a candidate."""
    names = [version, "latest"] if FINAL.fullmatch(version) else [version]
    return [f"{name}-{variant}" if variant else name for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints release notes or image tags of a release.")
    parser.add_argument("tag", help="such as v1.2.3")
    parser.add_argument("wanted", choices=["notes", "tags"])
    parser.add_argument("--variant", default="", help="of the image, such as cuda")
    arguments = parser.parse_args()
    if arguments.tag != f"v{__version__}":
        sys.exit(f"{arguments.tag} is not v{__version__}, the version in src/__init__.py")
    try:
        notes = find_notes(CHANGELOG.read_text(), __version__)
    except ValueError as error:
        sys.exit(str(error))
    tags = image_tags(__version__, arguments.variant)
    print(notes if arguments.wanted == "notes" else "\n".join(tags))


if __name__ == "__main__":
    main()
