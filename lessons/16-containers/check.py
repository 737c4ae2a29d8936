"""Check of exercise 16."""

from pathlib import Path
from typing import Any

GOOD = """\
# USER root
FROM python:3.11-slim AS builder
COPY requirements.txt ./
RUN python -m venv /venv \\
 && /venv/bin/pip install -r requirements.txt
COPY . /app
FROM builder AS runtime
ENV PATH=/venv/bin:$PATH
USER 10001:10001
CMD ["python", "-m", "src.main"]
"""
CHANGES = [
    ("", "", set()),
    ("USER 10001:10001\n", "", {"root"}),
    ("USER 10001:10001", "USER root", {"root"}),
    ("USER 10001:10001", "USER 0:0", {"root"}),
    ("USER 10001:10001", "USER 10001\nUSER root", {"root"}),
    ("USER 10001:10001", "USER root\nUSER app", set()),
    ("python:3.11-slim", "python", {"latest"}),
    ("python:3.11-slim", "python:latest", {"latest"}),
    ("python:3.11-slim", "registry.example.com:5000/python", {"latest"}),
    ("python:3.11-slim", "registry.example.com:5000/python:3.11", set()),
    ("python:3.11-slim", "${BASE_IMAGE}", set()),
    ('["python", "-m", "src.main"]', "python -m src.main", {"shell"}),
    ('CMD ["python", "-m", "src.main"]\n', "", {"shell"}),
    ("COPY requirements.txt ./", "COPY . .", {"order"}),
    ("ENV PATH", "ENV API_TOKEN=abc\nENV PATH", {"secret"}),
    ("ENV PATH", "ENV DB_PASSWORD hunter2\nENV PATH", {"secret"}),
    ("ENV PATH", "# ENV DB_PASSWORD=hunter2\nENV PATH", set()),
]


def check(answer: dict[str, Any]) -> None:
    """Tries a good file, changes of it, and this project's."""
    problems = answer["problems"]
    for before, after, expected in CHANGES:
        given = problems(GOOD.replace(before, after) if before else GOOD)
        what = f"with {after!r} for {before!r}" if before else "as it is"
        assert given == expected, f"The good file {what}: {expected or 'none'}, not {given}."
    both = "FROM python\nCOPY . .\nRUN pip install .\nCMD python app.py\n"
    expected = {"root", "latest", "shell", "order"}
    given = problems(both)
    assert given == expected, f"{both!r}: {expected}, not {given}."
    given = problems(Path("Dockerfile").read_text())
    assert given == set(), f"In this project's Dockerfile it finds {given}."
