"""Exercise 16: what is wrong with a Dockerfile?"""


def problems(dockerfile: str) -> set[str]:
    """Returns the mistakes in a Dockerfile, as a set of these words.

    - `root`: the last stage has no `USER`, or its last one is `root` or `0`, also with a group as
      in `0:0`.
    - `latest`: a stage begins with a base without a tag, or with the tag `latest`. Names of earlier
      stages, and bases that contain `$`, are no mistakes. In `host:5000/name` the port is no tag.
    - `shell`: the last `CMD` of the last stage is not in the form with brackets, or there is none.
    - `order`: in some stage `COPY . ` (everything) comes before the first `RUN` with `pip install`.
    - `secret`: an `ENV` gives a value to a name that contains PASSWORD, SECRET or TOKEN.

    Instructions are written in capital letters. Lines that begin with `#` are comments. A line that
    ends with a backslash continues in the next one.
    """
    raise NotImplementedError
