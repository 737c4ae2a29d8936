"""Lists the licences of packages, and fails on one that is not allowed.

    python -m deploy.licences FOLDER      # such as .audit/runtime/lib/python3.11/site-packages

Licences are read from the packages' own metadata: from the SPDX expression if it exists, else from
older fields, with the spellings of NAMES.
"""

import re
import sys
from importlib.metadata import Distribution, distributions

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-0",
    "PSF-2.0",
    "Zlib",
}
"""Licences that require attribution alone."""

EXCEPTIONS = {
    "certifi": ("MPL-2.0", "a list of certificates, which we do not change"),
    "tqdm": ("MPL-2.0", "used as it is; what would have to be published is changes to its files"),
}
"""Further licences of single packages, with reasons."""

CUDA = re.compile(r"(nvidia|cuda)-[a-z0-9-]+")
CUDA_LICENCE = "NVIDIA's"
"""Packages of torch's CUDA build; they may be redistributed with an application that uses them."""

NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
CLASSIFIER = "License :: "


def licence_of(package: Distribution) -> str:
    """Returns a package's licence as an SPDX expression if it is known; empty if it has none."""
    if CUDA.fullmatch(_name(package)):
        return CUDA_LICENCE
    text = _field(package, "License-Expression") or _field(package, "License")
    if not text or "\n" in text or len(text) > 100:  # empty, or the licence itself
        classifiers = package.metadata.get_all("Classifier", [])
        found = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith(CLASSIFIER)]
        text = " OR ".join(NAMES.get(one, one) for one in found)
    return NAMES.get(text, text)


def is_allowed(name: str, licence: str) -> bool:
    """Decides an SPDX expression: all licences joined by AND must be allowed, one of those joined
    by OR.

    Expressions with parentheses are not parsed, and so not allowed.
    """
    allowed = ALLOWED | {CUDA_LICENCE}
    if name in EXCEPTIONS:
        allowed = allowed | {EXCEPTIONS[name][0]}
    return any(set(choice.split(" AND ")) <= allowed for choice in licence.split(" OR "))


def _name(package: Distribution) -> str:
    return _field(package, "Name").lower().replace("_", "-")


def _field(package: Distribution, name: str) -> str:
    return package.metadata.get(name, "")


def main(folder: str) -> None:
    licences = {_name(one): licence_of(one) for one in distributions(path=[folder])}
    if not licences:
        sys.exit(f"There is no package in {folder}.")
    for name, licence in sorted(licences.items()):
        reason = f" ({EXCEPTIONS[name][1]})" if name in EXCEPTIONS else ""
        print(f"{name}: {licence or 'no licence'}{reason}")
    refused = [name for name, licence in licences.items() if not is_allowed(name, licence)]
    if refused:
        sys.exit(f"Licences that are not in ALLOWED or EXCEPTIONS: {', '.join(sorted(refused))}.")


if __name__ == "__main__":
    main(sys.argv[1])
