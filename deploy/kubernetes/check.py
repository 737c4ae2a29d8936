"""Renders every overlay with kubectl and validates it: `make k8s-check`.

Kubernetes' own resources are validated by its published schemas, custom ones by models made from
their published definitions. All of these come with the packages that make installs. A field that no
schema has is an error. `--write` copies deploy/prometheus/rules.yml into the PrometheusRule.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from pydantic import BaseModel, ValidationError

FOLDER = Path(__file__).parent
RULES = FOLDER.parent / "prometheus" / "rules.yml"
RULES_COPY = FOLDER / "components" / "monitoring" / "prometheusrule.yaml"
VERSIONS = ("1.30", "1.37")  # of Kubernetes: the oldest supported and the newest known
CUSTOM: dict[str, type[BaseModel]] = {
    "ScaledObject": ScaledObject,
    "PrometheusRule": PrometheusRule,
    "ServiceMonitor": ServiceMonitor,
}
WRITTEN_BY = "# Copied from deploy/prometheus/rules.yml by `make k8s-check K8S_FLAGS=--write`.\n"


def main() -> int:
    if "--write" in sys.argv[1:]:
        RULES_COPY.write_text(_rules_copy())
    problems = [f"{RULES_COPY.name}: differs from {RULES.name}; run it with --write"] * (
        RULES_COPY.read_text() != _rules_copy()
    )
    for folder in [FOLDER / "base", *sorted((FOLDER / "overlays").iterdir())]:
        resources = _render(folder)
        found = [f"{folder.name}: {one}" for resource in resources for one in _problems(resource)]
        kinds = ", ".join(resource["kind"] for resource in resources)
        sys.stdout.write(f"{'no' if found else 'ok'}  {folder.name}: {kinds}\n")
        problems += found
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return bool(problems)


def _render(folder: Path) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if rendered.returncode:
        sys.exit(f"{folder.name}: {rendered.stderr}")
    return list(yaml.safe_load_all(rendered.stdout))


def _problems(resource: dict[str, Any]) -> Iterator[str]:
    name = f"{resource['kind']} {resource['metadata']['name']}"
    if model := CUSTOM.get(resource["kind"]):
        try:
            known = model.model_validate(resource)
        except ValidationError as error:
            yield f"{name}: {error}"
        else:
            dumped = known.model_dump(by_alias=True, exclude_unset=True, mode="json")
            yield from (f"{name}: no field {path}" for path in _unknown(resource, dumped))
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: Kubernetes {version}: {error.message} at {list(error.path)}"


def _unknown(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of fields that a model dropped from its input."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(known, dict) or key not in known:
                yield f"{path}.{key}"
            else:
                yield from _unknown(value, known[key], f"{path}.{key}")
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from _unknown(value, known[index], f"{path}[{index}]")


def _rules_copy() -> str:
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "llm-inference"},
        "spec": {"groups": yaml.safe_load(RULES.read_text())["groups"]},
    }
    return WRITTEN_BY + yaml.safe_dump(resource, sort_keys=False, width=120)


if __name__ == "__main__":
    sys.exit(main())
