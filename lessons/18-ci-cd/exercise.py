"""Exercise 18: what is unsafe in a workflow?"""

from typing import Any


def problems(workflow: dict[str, Any]) -> set[str]:
    """Returns what is unsafe in a workflow, as a set of these words.

    - `unpinned`: a step `uses` an action that is not named by a hash: `@` and 40 digits 0-9, a-f at
      its end. Actions of the own repository, which begin with `./`, need none.
    - `rights`: neither the workflow nor a job has `permissions`, or one of them has `write-all`.
      A workflow's `permissions` hold for its jobs without any.
    - `endless`: a job without `timeout-minutes`.
    - `secret`: a workflow with the trigger `pull_request` reads `secrets.` somewhere in a step.

    Args:
        workflow: as `yaml.safe_load` gives it, with triggers below the key "on": a text, a list, or
            a dictionary. Jobs are below "jobs", by name; each has a list "steps".
    """
    raise NotImplementedError
