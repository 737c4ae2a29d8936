"""Files of containers, clusters and pipelines agree with the code and with each other.

They are run by `make image-test`, `make k8s-check` and `make rolling-update`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import release
from src import __version__
from src.config import Settings
from src.main import create_app
from tests.conftest import create_settings
from tests.support.servers import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SETTINGS = {name.upper(): field for name, field in Settings.model_fields.items()}
OF_THE_CONTAINER = {"HOST", "PORT", "MODEL_CACHE_DIR", "RELOAD"}  # or for development
DEPLOYED = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())["spec"]
KEY_FOLDER = "${KEYS:-keys}:/keys:ro"
needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl renders overlays")


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def compose_service(name: str) -> dict[str, Any]:
    return read("docker-compose.yml")["services"][name]


def render_all(overlay: str) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def render(overlay: str) -> dict[str, dict[str, Any]]:
    """Returns the resources of an overlay by kind, of which there is one each, without Redis' and
    without the policies for further ways out.
    """
    resources = [
        one for one in render_all(overlay) if not re.search("redis|-to-", one["metadata"]["name"])
    ]
    by_kind = {resource["kind"]: resource for resource in resources}
    assert len(by_kind) == len(resources)
    return by_kind


def pod(resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return resources["Deployment"]["spec"]["template"]["spec"]


def metric_names() -> set[str]:
    metrics = create_app(create_settings()).state.service.http_metrics
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


# --- The image ---------------------------------------------------------------------------------


def test_the_image_runs_without_root_and_gets_signals_itself():
    runtime = DOCKERFILE.partition(" AS runtime")[2]
    assert re.findall(r"^USER (.*)", runtime, re.MULTILINE) == ["10001:10001"]
    assert 'CMD ["python", "-m", "src.main"]' in runtime
    assert "HOST=0.0.0.0" in runtime


def test_the_image_is_built_from_named_files_alone():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    named = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {path.split("/")[0] for one in copied for path in one.split()} == {
        path.split("/")[0] for path in named
    }


def test_the_environment_of_the_image_has_settings_alone():
    names = set(
        re.findall(r"^ *(?:ENV )?([A-Z_]+)=", DOCKERFILE.partition("ENV PATH")[2], re.MULTILINE)
    )
    assert names - {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "HF_HOME"} <= SETTINGS.keys()


def test_packages_and_code_are_in_layers_of_their_own():
    """A change of the code must not change the layer of packages."""
    runtime = DOCKERFILE.partition(" AS runtime")[2]
    copied = re.findall(r"^COPY --from=builder (\S+) (\S+)$", runtime, re.MULTILINE)
    assert [source for source, _ in copied] == ["/app/venv", "/app/LICENSE", "/app/src"]
    assert all(source == target for source, target in copied)


# --- Compose -----------------------------------------------------------------------------------


def test_compose_builds_with_every_argument_of_the_image():
    arguments = compose_service("llm-inference")["build"]["args"]
    assert arguments.keys() == set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    (base,) = re.findall(r"^ARG BASE_IMAGE=(.*)", DOCKERFILE, re.MULTILINE)
    assert arguments["BASE_IMAGE"] == f"${{BASE_IMAGE:-{base}}}"


def test_compose_publishes_on_loopback_by_default():
    services = read("docker-compose.yml")["services"] | {
        "tls": read("docker-compose.tls.yml")["services"]["nginx"]
    }
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 7
    for port in ports:
        assert re.match(r"127\.0\.0\.1:|\$\{PUBLISH_ADDRESS:-127\.0\.0\.1\}:", port), port


def test_every_container_of_compose_has_limits_and_no_capabilities():
    for name, service in read("docker-compose.yml")["services"].items():
        if name != "webui":  # another maker's image, which writes to its own folders as root
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert {"mem_limit", "pids_limit"} <= service.keys(), name


@pytest.mark.parametrize("service", ["llm-inference", "replica"])
def test_the_process_limit_has_room_for_grammar_processes(service):
    """Counts kept grammar processes and those of running sequences; half is for threads."""
    (limit,) = re.findall(r"\d+", compose_service(service)["pids_limit"])
    needed = SETTINGS["GRAMMAR_CACHE_SIZE"].default + SETTINGS["MAX_BATCH_SIZE"].default
    assert int(limit) / 2 > needed


def test_replicas_of_compose_and_of_kubernetes_listen_once_they_can_serve():
    passed = compose_service("replica")["environment"]["LISTEN_WHEN_LOADED"]
    assert passed == "${LISTEN_WHEN_LOADED:-true}"
    assert compose_service("llm-inference")["environment"]["LISTEN_WHEN_LOADED"] is None
    (config,) = read("deploy/kubernetes/base/kustomization.yaml")["configMapGenerator"]
    assert "LISTEN_WHEN_LOADED=true" in config["literals"]


def test_prometheus_finds_alertmanager_which_sends_to_the_webhook_of_a_file():
    (manager,) = read("prometheus.yml")["alerting"]["alertmanagers"]
    (discovery,) = manager["dns_sd_configs"]
    assert discovery["names"] == ["alertmanager"]
    service = compose_service("alertmanager")
    assert str(discovery["port"]) == service["ports"][0].rpartition(":")[2]
    config = read("deploy/alertmanager/alertmanager.yml")
    (receiver,) = config["receivers"]
    assert {config["route"]["receiver"]} == {receiver["name"]} | {
        route["receiver"] for route in config["route"]["routes"]
    }
    (webhook,) = receiver["webhook_configs"]
    assert any(f":{webhook['url_file']}:" in volume for volume in service["volumes"])
    alerts = {
        rule.get("alert")
        for group in read("deploy/prometheus/rules.yml")["groups"]
        for rule in group["rules"]
    }
    (inhibition,) = config["inhibit_rules"]
    assert inhibition["source_matchers"][0].split('"')[1] in alerts


@pytest.mark.parametrize("service", ["llm-inference", "replica"])
def test_every_setting_passes_through_compose(service):
    passed = compose_service(service)["environment"].keys()
    assert passed & SETTINGS.keys() == SETTINGS.keys() - OF_THE_CONTAINER


def test_compose_waits_for_running_requests():
    for service in ("llm-inference", "replica", "nginx"):
        written = compose_service(service)["stop_grace_period"]
        (seconds,) = re.fullmatch(r"\$\{STOP_GRACE_PERIOD:-(\d+)s\}", written).groups()
        assert int(seconds) > SETTINGS["SHUTDOWN_GRACE_SECONDS"].default
    assert compose_service("nginx")["stop_signal"] == "SIGQUIT"


@pytest.mark.parametrize("service", ["llm-inference", "replica"])
def test_keys_and_the_log_of_use_have_a_place_in_compose(service):
    """Keys are read from the folder that `keys` writes into; the image's user owns it."""
    assert {KEY_FOLDER, "usage:/usage"} <= set(compose_service(service)["volumes"])
    assert compose_service("keys")["volumes"] == ["keys:/keys"]
    assert compose_service("keys")["environment"] == {"API_KEYS_FILE": "/keys/keys.json"}
    (folders,) = re.findall(r"install -d -o app -g app (.*)", DOCKERFILE)
    assert folders.split() == ["/models", "/keys", "/usage", "/batches"]


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """Returns the command of Compose: version 2, as in the documentation, or 1."""
    for command in (["docker", "compose"], ["docker-compose"]):
        version = [*command, "version"]
        if shutil.which(command[0]) and not subprocess.run(version, check=False).returncode:
            return command
    pytest.skip("no docker-compose")


@pytest.mark.parametrize(
    ("variables", "source", "metrics_key"),
    [
        ({}, "keys", "deploy/prometheus/metrics.key"),
        ({"KEYS": "./deploy", "METRICS_KEY_FILE": "./LICENSE"}, f"{ROOT}/deploy", "LICENSE"),
    ],
)
def test_compose_mounts_keys_from_its_volume_or_from_a_folder(
    compose, tmp_path, variables, source, metrics_key
):
    services = compose_config(compose, tmp_path, **variables)
    assert source_of(services["llm-inference"], "/keys") == source
    assert source_of(services["keys"], "/keys") == "keys"
    mounted = "/etc/prometheus/deploy/prometheus/metrics.key"
    assert source_of(services["prometheus"], mounted) == f"{ROOT}/{metrics_key}"


def compose_config(
    compose: list[str], folder: Path, *overrides: str, **variables: str
) -> dict[str, Any]:
    """Returns the services as Compose reads them, of all profiles, with override files and
    variables.
    """
    (folder / "empty.env").touch()  # instead of an existing `.env`
    files = [f"--file={name}" for name in ("docker-compose.yml", *overrides)]
    profiles = [
        f"--profile={name}" for name in ("keys", "monitoring", "alerting", "scale", "webui")
    ]
    command = [*compose, f"--env-file={folder}/empty.env", *files, *profiles, "config"]
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return services


def test_compose_takes_models_from_its_volume_or_from_a_folder(compose, tmp_path):
    for service in ("llm-inference", "replica"):
        services = compose_config(compose, tmp_path)
        assert source_of(services[service], "/models") == "models"
        services = compose_config(compose, tmp_path, MODELS="./deploy")
        assert source_of(services[service], "/models") == f"{ROOT}/deploy"


def test_an_override_of_compose_asks_for_gpus_and_for_torch_with_cuda(compose, tmp_path):
    service = compose_config(compose, tmp_path, "docker-compose.gpu.yml")["llm-inference"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["build"]["args"]["TORCH_BACKEND"].startswith("cu")
    assert service["image"] == "llm-inference:latest-cuda"
    assert service["read_only"]


def test_an_override_of_compose_adds_tls_to_nginx(compose, tmp_path):
    variables = {"TLS_CERTIFICATE": "./LICENSE", "TLS_KEY": "./Makefile"}
    service = compose_config(compose, tmp_path, "docker-compose.tls.yml", **variables)["nginx"]
    assert source_of(service, "/etc/nginx/tls/server.crt") == f"{ROOT}/LICENSE"
    assert source_of(service, "/etc/nginx/tls/server.key") == f"{ROOT}/Makefile"
    assert source_of(service, "/etc/nginx/nginx.conf") == f"{ROOT}/deploy/nginx/nginx.conf"
    assert len(service["ports"]) == 2


def source_of(service: dict[str, Any], target: str) -> str:
    """Returns the source of a mount, in the form of Compose v1 or v2."""
    mounts = [
        (one["source"], one["target"]) if isinstance(one, dict) else tuple(one.split(":")[:2])
        for one in service["volumes"]
    ]
    (source,) = (source for source, mounted in mounts if mounted == target)
    return source


def test_prometheus_sends_the_key_that_compose_mounts_and_there_is_none_here():
    (job,) = (
        one
        for one in read("prometheus.yml")["scrape_configs"]
        if one["job_name"] == "llm-inference"
    )
    path = job["authorization"]["credentials_file"]
    assert (ROOT / path).read_text() == ""
    mount = f"${{METRICS_KEY_FILE:-./{path}}}:/etc/prometheus/{path}:ro"
    assert mount in compose_service("prometheus")["volumes"]


def test_profiles_and_ports_are_as_documented():
    services = read("docker-compose.yml")["services"]
    found = {
        name: (
            service.get("profiles"),
            [port.rsplit(":", 1)[1] for port in service.get("ports", [])],
        )
        for name, service in services.items()
    }
    assert found == {
        "llm-inference": (None, ["8000"]),
        "replica": (["scale"], []),
        "batch-worker": (["queue"], []),
        "broker": (["queue"], []),
        "keys": (["keys"], []),
        "redis": (["scale"], []),
        "nginx": (["scale"], ["8080"]),
        "prometheus": (["monitoring", "alerting"], ["9090"]),
        "alertmanager": (["alerting"], ["9093"]),
        "grafana": (["monitoring"], ["3000"]),
        "webui": (["webui"], ["8080"]),
    }


def test_workers_of_compose_find_their_broker_and_the_service():
    worker, broker = compose_service("batch-worker"), compose_service("broker")
    (address,) = re.findall(r":-redis://(\w+):6379/0\}", worker["environment"]["BATCH_BROKER_URL"])
    assert (address, broker["profiles"]) == ("broker", worker["profiles"])
    assert "noeviction" in broker["command"]
    service = worker["environment"]["BATCH_SERVICE_URL"]
    assert re.search(r"http://([\w-]+):8000", service)[1] in worker["depends_on"]


def test_every_file_that_compose_mounts_is_there():
    services = read("docker-compose.yml")["services"].values()
    mounts = [mount for service in services for mount in service.get("volumes", [])]
    paths = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(paths) >= 6
    for path in paths:
        assert (ROOT / path).exists(), path


def test_prometheus_scrapes_the_services_of_compose_and_reads_the_rules():
    config = read("prometheus.yml")
    services = read("docker-compose.yml")["services"]
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "llm-inference")
    assert job["static_configs"] == [{"targets": ["llm-inference:8000"]}]
    assert job["dns_sd_configs"][0]["names"] == ["replica"]
    assert {"llm-inference", "replica"} <= services.keys()
    mounted = {mount.split(":")[1] for mount in services["prometheus"]["volumes"]}
    for path in config["rule_files"]:
        assert (ROOT / path).is_file()
        assert f"/etc/prometheus/{path.rpartition('/')[0]}" in mounted


def test_nginx_buffers_no_stream_and_retries_no_generation():
    config = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    directives = dict(re.findall(r"^\s+(\w+) ([^;{]+);", config, re.MULTILINE))
    assert directives["proxy_buffering"] == directives["gzip"] == "off"
    assert directives["proxy_next_upstream"] == "error timeout"
    silence = int(directives["proxy_read_timeout"].removesuffix("s"))
    assert silence > SETTINGS["TIMEOUT_SECONDS"].default
    largest_body = int(directives["client_max_body_size"].removesuffix("m")) * 2**20
    assert largest_body > SETTINGS["MAX_BODY_BYTES"].default
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in config


# --- Kubernetes --------------------------------------------------------------------------------


def test_pods_end_after_their_streams():
    """Load balancers first, then running requests, then the process; all within the grace."""
    spec = DEPLOYED["template"]["spec"]
    (container,) = spec["containers"]
    heard = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    config = read("deploy/kubernetes/base/kustomization.yaml")["configMapGenerator"][0]
    literals = dict(one.split("=") for one in config["literals"])
    running = int(literals["SHUTDOWN_GRACE_SECONDS"])
    assert running > SETTINGS["TIMEOUT_SECONDS"].default
    assert spec["terminationGracePeriodSeconds"] > heard + running


def test_each_probe_requests_its_own_route():
    (container,) = DEPLOYED["template"]["spec"]["containers"]
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "readiness", "liveness")
    }
    assert paths["liveness"] == "/health/live"
    assert paths["readiness"] == paths["startup"] == "/health/ready"
    described = create_app(create_settings()).openapi()["paths"]
    assert set(paths.values()) <= described.keys()


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_the_restricted_standard(overlay):
    """kubernetes.io/docs/concepts/security/pod-security-standards, restricted."""
    resources = render(overlay)
    assert not resources["ServiceAccount"]["automountServiceAccountToken"]
    labels = resources["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod(resources)["securityContext"]["runAsUser"] == 10001
    for resource in render_all(overlay):
        if resource["kind"] == "Deployment":
            assert_restricted(resource["spec"]["template"]["spec"])


def assert_restricted(spec: dict[str, Any]) -> None:
    assert not spec["automountServiceAccountToken"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for volume in spec["volumes"]:
        assert volume.keys() <= {"name", "emptyDir", "persistentVolumeClaim", "secret"}
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"]
        assert {"requests", "limits"} <= container["resources"].keys()


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_sets_existing_settings(overlay):
    resources = render(overlay)
    data = resources["ConfigMap"]["data"]
    assert data.keys() <= SETTINGS.keys() | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    Settings(_env_file=None, **{key.lower(): data[key] for key in data.keys() & SETTINGS.keys()})
    read_by_libraries = {"HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"}
    for container in [*pod(resources)["containers"], *pod(resources).get("initContainers", [])]:
        names = {one["name"] for one in container.get("env", [])}
        assert names <= SETTINGS.keys() | read_by_libraries


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_autoscaler_alone_sets_the_number_of_replicas(overlay):
    resources = render(overlay)
    is_scaled = bool(resources.keys() & {"HorizontalPodAutoscaler", "ScaledObject"})
    assert is_scaled != ("replicas" in resources["Deployment"]["spec"])


@needs_kubectl
def test_replicas_alone_reach_redis():
    named = {
        f"{one['kind']} {one['metadata']['name']}": one
        for one in render_all("redis")
        if "redis" in one["metadata"]["name"]
    }
    labels = named["Deployment llm-inference-redis"]["spec"]["template"]["metadata"]["labels"]
    service = named["Service llm-inference-redis"]
    (port,) = service["spec"]["ports"]
    assert service["spec"]["selector"] == labels
    asked = render("redis")["ConfigMap"]["data"]["RATE_LIMIT_STORAGE"]
    assert asked == f"redis://{service['metadata']['name']}:{port['port']}/0"
    replicas = render("redis")["Deployment"]["spec"]["selector"]["matchLabels"]
    policy = named["NetworkPolicy llm-inference-redis"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": replicas}}]
    allowed = named["NetworkPolicy llm-inference-to-redis"]["spec"]
    assert allowed["podSelector"]["matchLabels"] == replicas
    assert allowed["egress"][0]["to"] == [{"podSelector": {"matchLabels": labels}}]


def test_replicas_of_compose_count_together():
    (address,) = re.findall(
        r":-redis://(\w+):6379/0\}", compose_service("replica")["environment"]["RATE_LIMIT_STORAGE"]
    )
    assert address in compose_service("replica")["depends_on"]
    assert compose_service(address)["profiles"] == compose_service("replica")["profiles"]


@needs_kubectl
def test_weights_are_fetched_once_into_a_volume():
    spec = pod(render("cpu"))
    (fetch,), (serve,) = spec["initContainers"], spec["containers"]
    assert fetch["image"] == serve["image"]
    (volume,) = (one for one in spec["volumes"] if one["name"] == "models")
    assert volume.keys() == {"name", "persistentVolumeClaim"}
    mounts = {one["name"]: one for one in serve["volumeMounts"]}
    assert mounts["models"]["readOnly"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in serve["env"]
    compile(fetch["command"][2], "fetch-model", "exec")


def test_autoscalers_and_adapter_use_the_same_existing_metrics():
    hpa = read("deploy/kubernetes/components/hpa/horizontalpodautoscaler.yaml")["spec"]
    asked = {
        one["pods"]["metric"]["name"]: one["pods"]["target"]["averageValue"]
        for one in hpa["metrics"]
    }
    adapter = read("deploy/kubernetes/components/hpa/prometheus-adapter-values.yaml")
    (rule,) = adapter["rules"]["custom"]
    name = rule["name"]
    for metric in asked:
        assert f'__name__=~"{name["matches"].strip("^$")}"' in rule["seriesQuery"]
        renamed = re.sub(name["matches"], name["as"].replace("$", "\\"), metric)
        assert renamed == metric
    keda = read("deploy/kubernetes/components/keda/scaledobject.yaml")["spec"]
    triggers = [one["metadata"] for one in keda["triggers"]]
    found = {re.findall(r"\((\w+)\{", one["query"])[0]: one["threshold"] for one in triggers}
    assert found == asked
    assert asked.keys() <= metric_names()


def test_autoscalers_see_running_sequences_as_well_as_waiting_ones():
    """With the queue alone, replicas that emptied it would be removed again."""
    hpa = read("deploy/kubernetes/components/hpa/horizontalpodautoscaler.yaml")["spec"]
    asked = {
        one["pods"]["metric"]["name"]: int(one["pods"]["target"]["averageValue"])
        for one in hpa["metrics"]
    }
    assert asked["inference_sequences_live"] < SETTINGS["MAX_BATCH_SIZE"].default


@needs_kubectl
def test_the_services_own_policy_and_budget_are_not_redis():
    """An empty selector would match all pods of the namespace."""
    named = {f"{one['kind']} {one['metadata']['name']}": one for one in render_all("redis")}
    replicas = named["Deployment llm-inference"]["spec"]["selector"]
    policy = named["NetworkPolicy llm-inference"]["spec"]["podSelector"]
    budget = named["PodDisruptionBudget llm-inference"]["spec"]["selector"]
    assert policy == budget == replicas
    assert named["Deployment llm-inference-redis"]["spec"]["selector"] != replicas


@needs_kubectl
def test_network_policies_allow_collector_redis_and_node_dns():
    resources = render_all("egress")
    replicas = render("egress")["Deployment"]["spec"]["selector"]
    outs = {
        one["metadata"]["name"].partition("-to-")[2]: one["spec"]
        for one in resources
        if "-to-" in one["metadata"]["name"]
    }
    assert all(out["podSelector"] == replicas for out in outs.values())
    ports = {
        name: {port["port"] for rule in out["egress"] for port in rule["ports"]}
        for name, out in outs.items()
    }
    assert ports == {"otlp": {4318}, "own-redis": {6379}, "node-local-dns": {53}}
    collector = render("egress")["ConfigMap"]["data"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    (to,) = outs["otlp"]["egress"][0]["to"]
    (namespace,) = to["namespaceSelector"]["matchLabels"].values()
    assert re.fullmatch(rf"http://[\w-]+\.{namespace}\.svc:4318", collector)


@needs_kubectl
def test_a_redis_with_a_password_comes_from_a_secret():
    (container,) = pod(render("egress"))["containers"]
    (url,) = (one for one in container["env"] if one["name"] == "RATE_LIMIT_STORAGE")
    assert url["valueFrom"] == {
        "secretKeyRef": {"name": "llm-inference", "key": "RATE_LIMIT_STORAGE"}
    }


@needs_kubectl
def test_keys_come_from_secrets_that_are_not_here_for_the_service_and_for_its_scraper():
    resources = render("keys")
    data = resources["ConfigMap"]["data"]
    assert data["AUTH"] == "api_key"
    (mount,) = (
        one for one in pod(resources)["containers"][0]["volumeMounts"] if one["name"] == "keys"
    )
    assert mount["readOnly"]
    assert "subPath" not in mount  # such a file would never change
    assert data["API_KEYS_FILE"].rpartition("/")[0] == mount["mountPath"]
    (volume,) = (one for one in pod(resources)["volumes"] if one["name"] == "keys")
    assert volume["secret"] == {"secretName": "llm-inference-keys", "defaultMode": 0o440}
    (endpoint,) = resources["ServiceMonitor"]["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials == {"name": "llm-inference-metrics-key", "key": "key"}
    assert "Secret" not in resources
    documented = (ROOT / "docs" / "deployment.md").read_text()
    for name in (volume["secret"]["secretName"], credentials["name"]):
        assert f"create secret generic {name} " in documented


def test_every_component_is_in_an_overlay_so_that_it_is_checked():
    overlays = [read(f"deploy/kubernetes/overlays/{name}/kustomization.yaml") for name in OVERLAYS]
    used = {path.rpartition("/")[2] for one in overlays for path in one["components"]}
    assert used == {path.name for path in (KUBERNETES / "components").iterdir()}


def test_the_prometheus_rule_has_the_rules_of_prometheus():
    copied = read("deploy/kubernetes/components/monitoring/prometheusrule.yaml")
    assert copied["spec"]["groups"] == read("deploy/prometheus/rules.yml")["groups"]


def test_the_ingress_routes_all_public_paths():
    ingress = read("deploy/kubernetes/components/ingress/ingress.yaml")["spec"]
    paths = {one["path"]: one["pathType"] for one in ingress["rules"][0]["http"]["paths"]}

    def leads(path: str) -> bool:
        return path in paths or any(
            path.startswith(prefix + "/") for prefix, kind in paths.items() if kind == "Prefix"
        )

    app = create_app(create_settings())
    pages = {route.path for route in app.routes if hasattr(route, "path")}
    inside = {"/metrics", "/health/live", "/health/ready"}
    public = (app.openapi()["paths"].keys() | pages) - inside
    assert {path for path in public if not leads(path)} == set()
    assert not any(leads(path) for path in inside)


# --- Pipelines ---------------------------------------------------------------------------------


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            yield f"{path.stem}/{name}", job


def test_actions_are_pinned_by_their_commit_and_may_do_little():
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {}
        for line in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    may_write = {"cd/image": {"packages"}, "cd/release": {"contents", "packages"}}
    for name, job in jobs():
        written = {key for key, value in job["permissions"].items() if value == "write"}
        assert written == may_write.get(name, set())


def test_each_job_runs_an_existing_make_target():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, job in jobs():
        commands = "\n".join(step.get("run", "") for step in job["steps"])
        run = set(re.findall(r"^\s*make ([\w-]+)", commands, re.MULTILINE))
        assert run, name
        assert run <= targets


def test_ci_runs_on_every_python_that_the_package_allows():
    (ci,) = (path for path in WORKFLOWS if path.stem == "ci")
    pythons = yaml.safe_load(ci.read_text())["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]


def test_nothing_is_pushed_before_the_tag_is_checked_nor_named_before_it_is_tried():
    cd = read(".github/workflows/cd.yml")["jobs"]
    commands = {name: [step.get("run", "") for step in job["steps"]] for name, job in cd.items()}
    assert any("make release-notes" in one for one in commands["check"])
    assert cd["image"]["needs"] == "check"
    assert {"check", "image"} <= set(cd["release"]["needs"])
    assert {"check", "image", "release"} <= set(cd["deploy"]["needs"])
    assert "make image-try" in commands["image"][-1]
    assert not any("latest" in one or "image-tags" in one for one in commands["image"])
    assert "is_final" in cd["deploy"]["if"]


def test_each_variant_of_the_image_is_built_and_named():
    image = read(".github/workflows/cd.yml")["jobs"]["image"]
    built = {one["variant"]: one["torch"] for one in image["strategy"]["matrix"]["include"]}
    assert built.keys() == image["outputs"].keys() == {"cpu", "cuda"}
    assert built["cpu"] == "cpu"
    assert built["cuda"].startswith("cu1")


@pytest.mark.parametrize(("is_there", "verb"), [(False, "create"), (True, "edit")])
def test_a_release_can_be_repeated(tmp_path, is_there, verb):
    (step,) = (
        step
        for step in read(".github/workflows/cd.yml")["jobs"]["release"]["steps"]
        if step.get("name") == "Release notes"
    )
    gh = tmp_path / "gh"
    gh.write_text(f'#!/bin/sh\n[ "$2" = view ] && exit {int(not is_there)}\necho "$@" >> asked\n')
    gh.chmod(0o700)
    variables = {"TAG": "v1.2.3", "IS_FINAL": "true", "CPU_IMAGE": "a@1", "CUDA_IMAGE": "a@2"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = ["bash", "-e", "-c", step["run"]]
    subprocess.run(command, cwd=tmp_path, env=variables | {"PATH": path}, check=True)
    options = "--verify-tag --latest --title v1.2.3 --notes-file notes.md"
    assert (tmp_path / "asked").read_text() == f"release {verb} v1.2.3 {options}\n"
    assert "a@1 (CPU), a@2 (CUDA)" in (tmp_path / "notes.md").read_text()


@pytest.mark.parametrize("heading", ["## 0.1.0", "## [0.1.0] - 2026-01-02"])
def test_release_notes_are_those_of_this_very_version(heading):
    others = "## Unreleased\n\n- new\n\n## 10.1.0\n\n- other\n\n"
    text = f"# Changelog\n\n{others}{heading}\n\n### Added\n\n- mine\n\n## 0.1.0rc1\n\n- older\n"
    assert release.find_notes(text, "0.1.0") == "### Added\n\n- mine"


@pytest.mark.parametrize("text", ["## 10.1.0\n\n- other\n", "## 0.1.0\n\n## 0.0.9\n\n- older\n"])
def test_a_version_without_release_notes_is_refused(text):
    with pytest.raises(ValueError, match=r"nothing under `## 0\.1\.0`"):
        release.find_notes(text, "0.1.0")


def test_the_changelog_needs_a_heading_alone_to_be_released_as_contributing_says():
    shown = re.findall("`(## [0-9][^`]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    (heading,) = (one.replace("0.1.0", __version__) for one in shown)
    changelog = release.CHANGELOG.read_text()
    released = changelog.replace("## Unreleased\n", f"## Unreleased\n\n{heading}\n", 1)
    assert "### Added" in release.find_notes(released, __version__)


def test_only_a_final_version_becomes_the_latest():
    assert release.image_tags("1.2.3") == ["1.2.3", "latest"]
    assert release.image_tags("1.2.3", "cuda") == ["1.2.3-cuda", "latest-cuda"]
    for candidate in ("1.2.3rc1", "1.2.3-rc.1", "1.2.3.dev4"):
        assert release.image_tags(candidate) == [candidate]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--silent", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def test_a_tag_that_is_not_this_version_is_refused():
    for target in ("release-notes", "image-tags"):
        done = make(target, "TAG=v9.9.9")
        assert done.returncode != 0
        assert f"v9.9.9 is not v{__version__}" in done.stderr


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_deployed_with_the_image_that_it_names(overlay):
    images = {"CPU_IMAGE": "a.example/b@sha256:0c", "CUDA_IMAGE": "a.example/b@sha256:1c"}
    done = make("k8s-render", f"OVERLAY={overlay}", *(f"{k}={v}" for k, v in images.items()))
    (deployment,) = (
        one
        for one in yaml.safe_load_all(done.stdout)
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "llm-inference")
    )
    spec = deployment["spec"]["template"]["spec"]
    used = {one["image"] for one in [*spec["containers"], *spec.get("initContainers", [])]}
    is_for_gpus = "nvidia.com/gpu" in spec["containers"][0]["resources"]["limits"]
    assert used == {images["CUDA_IMAGE" if is_for_gpus else "CPU_IMAGE"]}
    assert is_for_gpus == (overlay == "gpu")


@needs_kubectl
def test_nothing_is_rendered_without_both_images():
    done = make("k8s-render", "CPU_IMAGE=a.example/b@sha256:0c")
    assert (done.returncode != 0, done.stdout) == (True, "")


# --- All of them -------------------------------------------------------------------------------


def test_no_file_names_a_package_index():
    files = [ROOT / "Dockerfile", ROOT / "Makefile", ROOT / "docker-compose.yml", *WORKFLOWS]
    files += [
        path for path in (ROOT / "deploy").rglob("*") if path.suffix in {".yaml", ".txt", ".py"}
    ]
    for path in files:
        text = path.read_text()
        assert not re.search(r"--(extra-)?index-url|--default-index|--find-links=http", text)
