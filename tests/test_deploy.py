"""What people copy to run the service: linted, valid, and true to the settings."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import VERSION, DownloadSettings, Settings
from inference.store.address import Address
from tests.service import ROOT

SCRIPTS = sorted((ROOT / "cicd").glob("*.sh"))
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
SCHEMAS = ROOT / "tests/schemas"  # of kinds that Kubernetes itself does not have
COMPOSE = sorted([*ROOT.glob("docker-compose*.yml"), *ROOT.glob("deploy/docker-compose*.yml")])
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DOCKERFILE = ROOT / "Dockerfile"
OVERRIDES = {"docker-compose.gpu.yml", "docker-compose.tokens.yml"}  # of docker-compose.yml
OF_THE_BUILD = {"TORCH_INDEX_URL", "PYTHON_IMAGE", "HF_ENDPOINT"}
OF_THE_CONVERSION = {"PRECISION", "TEXT_MODE"}  # settings of the service that it depends on


def assert_passes(tool: str, *arguments: object) -> None:
    """Run a tool of the development requirements, which must find nothing."""
    path = Path(sys.executable).parent / tool
    answer = subprocess.run(
        [path, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def test_scripts_are_clean() -> None:
    assert_passes("shellcheck", "-x", *SCRIPTS, ".ci/run")


def test_dockerfiles_are_clean() -> None:
    assert_passes("hadolint", DOCKERFILE, ROOT / "custom.Dockerfile", ROOT / "several.Dockerfile")


def stages_of(dockerfile: Path) -> dict[str, str]:
    """The instructions of each stage, by its name."""
    lines = dockerfile.read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if line.strip() and not line.startswith("#"))
    stages = re.split(r"^(?=FROM )", text, flags=re.M)[1:]
    return {stage.partition("\n")[0].rpartition(" AS ")[2]: stage for stage in stages}


def test_the_base_for_models_of_ones_own_can_convert_and_serve() -> None:
    stages = stages_of(DOCKERFILE)

    copies = ["COPY --from=whole /venv /venv", "COPY --from=code /app ."]
    lines = [line for line in stages["custom"].splitlines() if not line.startswith("#")]
    assert lines == ["FROM base AS custom", *copies]


def test_packages_that_were_fetched_once_are_kept_for_the_next_build() -> None:
    stages = stages_of(DOCKERFILE)

    installing = [name for name, text in stages.items() if "pip" in text]
    assert installing == ["whole", "packages", "original"]
    for name in installing:
        assert "RUN --mount=type=cache,target=/root/.cache/pip" in stages[name]
        assert "NO_CACHE" not in stages[name].upper().replace("-", "_")


def test_an_image_says_what_it_is() -> None:
    labels = dict(
        re.findall(r'org\.opencontainers\.image\.(\w+)="(.+?)"', stages_of(DOCKERFILE)["base"])
    )

    assert labels.keys() == {"title", "description", "licenses", "version"}
    for name in ("created", "source", "revision", "base.name", "base.digest"):
        assert f'"org.opencontainers.image.{name}=' in (ROOT / "cicd/push.sh").read_text()


def test_all_that_tells_the_version_agrees() -> None:
    told = subprocess.run(
        [sys.executable, "app.py", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    (label,) = re.findall(r'image\.version="(.+?)"', DOCKERFILE.read_text())
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)

    assert newest
    assert told.stdout.strip() == label == newest[1] == VERSION


@pytest.mark.parametrize(("tag", "ends_with"), [("9.9.9", 1), (VERSION, 7), (f"v{VERSION}", 7)])
def test_images_are_pushed_under_a_tag_that_is_their_version(
    tag: str, ends_with: int, tmp_path: Path
) -> None:
    """Whatever comes after the look at the tag ends in a docker that is none."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 7\n")
    docker.chmod(0o755)
    answer = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "source cicd/push.sh; push name linux/amd64"],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "GIT_TAG": tag,
            "REMOTE_REPO": "r",
            "DOCKER_USERNAME": "u",
            "DOCKER_PASSWORD": "p",
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert answer.returncode == ends_with, answer.stderr
    assert ("VERSION in config.py" in answer.stderr) == (ends_with == 1)


def test_compose_files_come_back_bound_memory_and_are_open_to_this_machine_alone() -> None:
    for path in COMPOSE:
        for name, service in documents(path)[0]["services"].items():
            where = f"{path.name}: {name}"
            assert service.get("restart", "unless-stopped") == "unless-stopped", where
            if path.name in OVERRIDES or not {"image", "build"} & service.keys():
                continue  # it changes a service of another file
            assert {"restart", "mem_limit"} <= service.keys(), where
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), where


def test_compose_knows_when_weaviate_is_ready() -> None:
    services = [documents(path)[0]["services"] for path in COMPOSE if path.name not in OVERRIDES]
    checks = [one["weaviate"].get("healthcheck") for one in services if "weaviate" in one]

    assert len(checks) > 1
    assert all(check == checks[0] for check in checks)
    assert checks[0]["test"][-1].endswith("/v1/.well-known/ready")


def test_a_token_of_compose_reaches_both_ends_and_no_environment_of_the_service() -> None:
    override = documents(ROOT / "docker-compose.tokens.yml")[0]
    service = override["services"]["multi2vec-clip"]

    # A variable could not be written into a container with a read-only root file system.
    assert override["secrets"] == {"inference-token": {"file": "inference-token"}}
    assert service["secrets"] == ["inference-token"]
    file = service["environment"]["AUTHENTICATION_ALLOWED_TOKENS_FILE"]
    assert file == "/run/secrets/inference-token"
    url = override["services"]["weaviate"]["environment"]["CLIP_INFERENCE_API"]
    assert "${INFERENCE_TOKEN:?" in url


def test_the_secret_of_kubernetes_is_mounted_as_a_folder_where_the_service_looks() -> None:
    (pod,) = (pod_of(d) for d in documents(ROOT / "deploy/kubernetes/with-tokens.yaml"))
    (secret,) = documents(ROOT / "deploy/kubernetes/tokens.yaml")
    (mount,) = pod["containers"][0]["volumeMounts"]
    (variable,) = pod["containers"][0]["env"]
    volume = pod["volumes"][0]["secret"]

    assert volume["secretName"] == secret["metadata"]["name"]
    assert "subPath" not in mount
    assert variable["name"] == "AUTHENTICATION_ALLOWED_TOKENS_FILE"
    assert variable["value"] == f"{mount['mountPath']}/{volume['items'][0]['path']}"
    assert volume["items"][0]["key"] in secret["stringData"]


def test_what_serves_on_cpus_has_no_torch_and_no_original() -> None:
    stages = stages_of(DOCKERFILE)
    sources = {name: re.findall(r"--from=(\w+) (\S+)", text) for name, text in stages.items()}

    assert list(stages)[-1] == "service"  # what is built where no target is named
    code = ("code", "/app")
    assert sources["service"] == [("packages", "/venv"), ("converted", "/export"), code]
    assert sources["serving"] == [("packages", "/venv"), code]
    assert "requirements.txt" not in stages["packages"]
    for name in ("service", "serving", "cuda"):
        assert "\nRUN " not in stages[name], "what an image holds is copied into it"


def test_a_model_is_converted_on_the_machine_that_builds() -> None:
    stages = stages_of(DOCKERFILE)

    assert "FROM --platform=$BUILDPLATFORM" in stages["original"]
    assert "FROM original AS converted" in stages["converted"]
    assert not [name for name in ("base", "packages", "whole") if "--platform" in stages[name]]


def test_the_image_takes_every_variable_that_names_a_model() -> None:
    declared = set(re.findall(r"([A-Z_]+)=", " ".join(arg_lines(DOCKERFILE))))
    names = {name.upper() for name in DownloadSettings.model_fields} - {"MODELS_DIR", "HF_TOKEN"}

    assert declared - OF_THE_BUILD - OF_THE_CONVERSION == names
    passed_on = (ROOT / "cicd/arguments.sh").read_text()
    assert all(re.search(rf"\b{name}\b", passed_on) for name in declared)


def arg_lines(dockerfile: Path) -> list[str]:
    return [line for line in dockerfile.read_text().splitlines() if line.startswith("ARG ")]


def test_the_weights_come_before_the_code_that_does_not_make_them() -> None:
    stages = stages_of(DOCKERFILE)

    for name in ("service", "cuda"):
        copied = re.findall(r"^COPY .+$", stages[name], re.M)
        assert copied[-1] == "COPY --from=code /app ."
        assert copied[-2].endswith(" models")
    for path in ("app.py", "vectorizer.py", "web", "inference", "COPY . ."):
        assert path not in stages["original"] + stages["converted"]


def test_no_secret_is_an_argument() -> None:
    assert not [line for line in arg_lines(DOCKERFILE) if "TOKEN" in line]


def is_custom(path: Path) -> bool:
    """Whether a manifest is of kinds that have a schema in SCHEMAS, and of no others."""
    kinds = {(SCHEMAS / f"{document['kind']}.json").exists() for document in documents(path)}
    assert len(kinds) == 1, f"{path}: kinds of Kubernetes and of others want files of their own"
    return kinds.pop()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path, tmp_path: Path) -> None:
    if not is_custom(path):
        assert_passes("kubernetes-validate", "--strict", path)
        return
    for document in documents(path):
        one = tmp_path / "one.yaml"
        one.write_text(yaml.safe_dump(document))
        schema = SCHEMAS / f"{document['kind']}.json"
        assert_passes("check-jsonschema", "--schemafile", schema, one)


def test_each_file_of_the_kustomization_is_there() -> None:
    text = (ROOT / "deploy/kustomization.yaml").read_text()
    named = set(re.findall(r"kubernetes/[\w-]+\.yaml", text))

    assert named == {str(path.relative_to(ROOT / "deploy")) for path in MANIFESTS}


def test_a_model_of_texts_runs_by_the_same_manifests() -> None:
    """What is to be uncommented is an overlay of the image that the manifests name."""
    text = (ROOT / "deploy/kustomization.yaml").read_text()
    overlay = yaml.safe_load(text[text.index("# namespace:") :].replace("# ", ""))
    (pod,) = (pod_of(d) for d in documents(ROOT / "deploy/kubernetes/service.yaml") if pod_of(d))
    (image,) = overlay["images"]

    assert pod["containers"][0]["image"].startswith(f"{image['name']}:")
    assert image["newTag"] in json.loads((ROOT / "fetch/catalogue.json").read_text())


def test_several_models_have_one_name_in_the_image_and_in_what_asks_for_them() -> None:
    image = (ROOT / "several.Dockerfile").read_text()
    compose = documents(ROOT / "deploy/docker-compose.several.yml")[0]["services"]
    asked = [
        url.removeprefix("http://inference:8080/m/")
        for name, url in compose["weaviate"]["environment"].items()
        if name.endswith("_INFERENCE_API")
    ]
    (pod,) = (pod_of(d) for d in documents(ROOT / "deploy/kubernetes/several-models.yaml"))

    names = re.findall(r"^COPY --from=\S+ /app/models /app/models/(\S+)$", image, re.M)
    assert asked == names == ["clip", "minilm", "reranker"]
    assert f"ENV {pod['containers'][0]['env'][0]['name']}=" in image
    assert compose["inference"]["image"] in image


def test_the_balancer_asks_for_a_name_that_the_replicas_have() -> None:
    envoy = documents(ROOT / "deploy/envoy.yaml")[0]["static_resources"]["clusters"][0]
    endpoint = envoy["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    asked = endpoint["address"]["socket_address"]
    compose = documents(ROOT / "deploy/docker-compose.replicas.yml")[0]["services"]
    services = {
        document["metadata"]["name"]: document["spec"]
        for document in documents(ROOT / "deploy/kubernetes/balancer.yaml")
        if document["kind"] == "Service"
    }

    assert asked["port_value"] == Settings().port
    assert asked["address"] in compose["multi2vec-clip"]["networks"]["default"]["aliases"]
    replicas = services[asked["address"]]
    assert replicas["clusterIP"] == "None"  # every replica's address, and no address for all
    assert replicas["selector"] == {"app": "multi2vec-clip"}


def container_of(name: str) -> dict[str, Any]:
    """The container of the only deployment in a file of deploy/kubernetes."""
    (pod,) = (pod_of(d) for d in documents(ROOT / f"deploy/kubernetes/{name}") if pod_of(d))
    container: dict[str, Any] = pod["containers"][0]
    return container


def test_the_replicas_of_compose_share_a_valkey_that_bounds_itself() -> None:
    replicas = documents(ROOT / "deploy/docker-compose.replicas.yml")[0]["services"]
    added = documents(ROOT / "deploy/docker-compose.valkey.yml")[0]["services"]
    environment = added["multi2vec-clip"]["environment"]
    address = Address.of_url(environment["VECTOR_CACHE_URL"])
    command = added["valkey"]["command"]
    policy = command[command.index("--maxmemory-policy") + 1]

    assert added.keys() - replicas.keys() == {"valkey"}
    assert replicas["multi2vec-clip"]["deploy"]["replicas"] == 3
    assert replicas["multi2vec-clip"]["environment"].keys().isdisjoint(environment)
    assert address.shown == "redis://valkey:6379/0"
    assert added["multi2vec-clip"]["depends_on"]["valkey"] == {"condition": "service_started"}
    assert "--maxmemory" in command
    assert policy == "allkeys-lru"  # others refuse what is new, or delete nothing that never ends


HELD_S = 49  # for which the balancer holds a request: `timeout` in envoy.yaml


@pytest.mark.parametrize("name", ["service.yaml", "balancer.yaml"])
def test_one_that_is_frozen_is_restarted_while_its_requests_are_held(name: str) -> None:
    """A process that is stopped accepts connections and hears no signal."""
    probe = container_of(name)["livenessProbe"]

    assert "httpGet" in probe
    found_s = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert found_s + probe["terminationGracePeriodSeconds"] < HELD_S - 5  # until it is back
    assert probe["timeoutSeconds"] >= 5  # one that is busy is no frozen one


def test_the_probes_of_a_balancer_are_answered_while_it_refuses_requests() -> None:
    listeners = documents(ROOT / "deploy/envoy.yaml")[0]["static_resources"]["listeners"]
    (probes,) = (one for one in listeners if one.get("bypass_overload_manager"))
    manager = probes["filter_chains"][0]["filters"][0]["typed_config"]
    (live,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    ready = manager["http_filters"][0]["typed_config"]["headers"][0]["string_match"]["exact"]
    container = container_of("balancer.yaml")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    port = probes["address"]["socket_address"]["port_value"]
    for name, path in (("livenessProbe", live["match"]["path"]), ("readinessProbe", ready)):
        asked = container[name]["httpGet"]
        assert (asked["path"], ports[asked["port"]]) == (path, port)


def test_a_balancer_refuses_before_it_is_killed() -> None:
    """16 bodies of 90 MB took 2.7 GB, and are no reason to refuse any of those that are held."""
    limit = container_of("balancer.yaml")["resources"]["limits"]["memory"]
    manager = documents(ROOT / "deploy/envoy.yaml")[0]["overload_manager"]
    (monitor,) = manager["resource_monitors"]
    heap = monitor["typed_config"]["max_heap_size_bytes"]
    shares = {
        one["name"].rpartition(".")[2]: one["triggers"][0]["threshold"]["value"]
        for one in (*manager["actions"], *manager["loadshed_points"])
    }

    assert limit == "4Gi"
    assert heap <= 0.8 * 4 * 2**30  # the rest is for what comes between two looks
    assert 0.5 < shares["stop_accepting_requests"] < shares["http1_server_abort_dispatch"] < 1
    assert shares["http1_server_abort_dispatch"] * heap > 2.7e9
    assert shares["shrink_heap"] <= shares["stop_accepting_requests"]


def test_the_balancer_gives_up_before_weaviate_and_after_a_replica() -> None:
    listener = documents(ROOT / "deploy/envoy.yaml")[0]["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    route = host["routes"][0]["route"]
    pods = [pod_of(d) for d in documents(ROOT / "deploy/kubernetes/balancer.yaml") if pod_of(d)]
    (stop,) = (c["lifecycle"]["preStop"]["exec"]["command"] for c in pods[0]["containers"])
    waits_s = float(stop[-1].rsplit("sleep ", 1)[1])

    assert Settings().request_timeout_s < float(route["timeout"].removesuffix("s")) < 50
    assert float(route["timeout"].removesuffix("s")) == HELD_S
    assert float(route["timeout"].removesuffix("s")) < waits_s
    assert waits_s < pods[0]["terminationGracePeriodSeconds"]
    buffer = manager["http_filters"][1]["typed_config"]
    assert buffer["max_request_bytes"] == Settings().max_request_bytes


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("compose-spec", COMPOSE),
        ("github-workflows", WORKFLOWS),
        ("dependabot", [ROOT / ".github/dependabot.yml"]),
    ],
)
def test_what_others_read_is_valid(schema: str, paths: list[Path]) -> None:
    assert paths
    assert_passes("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *paths)


def test_every_variable_that_is_set_is_a_setting() -> None:
    containers = [
        container
        for path in MANIFESTS
        for document in documents(path)
        for container in pod_of(document).get("containers", [])
    ]
    in_kubernetes = {variable["name"] for c in containers for variable in c.get("env", [])}
    services = [
        service
        for path in COMPOSE
        for name, service in documents(path)[0]["services"].items()
        if name not in {"weaviate", "balancer", "valkey"}
    ]
    in_compose = {name for service in services for name in service["environment"]}
    settings = {name.upper() for name in Settings.model_fields}

    assert in_kubernetes | in_compose <= settings
    assert {"ENABLE_CUDA", "DRAIN_DELAY_S"} <= in_kubernetes | in_compose
    arguments = {name for service in services for name in service.get("build", {}).get("args", [])}
    assert arguments <= OF_THE_BUILD | OF_THE_CONVERSION | {
        name.upper() for name in DownloadSettings.model_fields
    }


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = document.get("spec", {}).get("template", {}).get("spec", {})
    return pod


def test_a_pod_has_time_to_drain() -> None:
    (pod,) = (pod_of(d) for d in documents(ROOT / "deploy/kubernetes/service.yaml") if pod_of(d))
    variables = {v["name"]: v["value"] for v in pod["containers"][0]["env"]}
    needed_s = float(variables["DRAIN_DELAY_S"]) + Settings().request_timeout_s

    assert pod["terminationGracePeriodSeconds"] >= needed_s
    for path in (ROOT / "docker-compose.yml", ROOT / "deploy/docker-compose.replicas.yml"):
        service = documents(path)[0]["services"]["multi2vec-clip"]
        delay_s = float(service["environment"].get("DRAIN_DELAY_S", 0.5))
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        assert grace_s >= delay_s + Settings().request_timeout_s


def test_the_autoscaler_reads_a_metric_that_exists() -> None:
    (autoscaler,) = documents(ROOT / "deploy/kubernetes/autoscaler.yaml")
    name = autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"]

    assert f'"{name}"' in (ROOT / "web/states.py").read_text()


def test_the_matrix_builds_every_tag_that_is_supported() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "fetch.catalogue", "--matrix"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    used = set(
        re.findall(
            r"\{\{ matrix\.model\.([A-Za-z_]+)", (ROOT / ".github/workflows/images.yml").read_text()
        )
    )
    keys = {key for row in json.loads(answer.stdout)["include"] for key in row}

    assert keys - {"build_args"} == used


def test_every_direct_dependency_and_its_licence_are_listed() -> None:
    listed = dict(
        re.findall(r"^\| ([\w.-]+) \| (.+) \|$", (ROOT / "LICENSES.md").read_text(), re.M)
    )
    lists = [ROOT / f"requirements{kind}.in" for kind in ("-serve", "", "-redis")]
    direct = re.findall(r"^([\w.-]+)==", "\n".join(one.read_text() for one in lists), re.M)

    assert set(direct) == set(listed) - {"package"}
    assert all(metadata(name)["Version"] for name in direct)


def test_the_smoke_test_needs_nothing_but_python() -> None:
    python = shutil.which("python3") or sys.executable
    answer = subprocess.run(
        [python, "-I", "smoke_test.py", "http://127.0.0.1:9", "--wait", "0.5"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    waited, failed = answer.stdout.splitlines()
    assert waited == (
        "waiting for http://127.0.0.1:9 for up to 0.5 s: [Errno 111] Connection refused"
    )
    assert failed == (
        "FAILED  http://127.0.0.1:9 is not ready after 0.5 s: [Errno 111] Connection refused"
    )
    assert answer.returncode == 1
