"""An answer to exercise 18."""

import re
from typing import Any


def problems(workflow: dict[str, Any]) -> set[str]:
    """Returns what is unsafe in a workflow."""
    found: set[str] = set()
    on = workflow["on"]
    is_for_requests = "pull_request" in ([on] if isinstance(on, str) else on)
    for job in workflow["jobs"].values():
        if job.get("permissions", workflow.get("permissions")) in (None, "write-all"):
            found.add("rights")
        if "timeout-minutes" not in job:
            found.add("endless")
        for step in job["steps"]:
            action = step.get("uses", "")
            is_own = not action or action.startswith("./")
            if not is_own and not re.search(r"@[0-9a-f]{40}$", action):
                found.add("unpinned")
            if is_for_requests and "secrets." in str(step):
                found.add("secret")
    if workflow.get("permissions") == "write-all":
        found.add("rights")
    return found
