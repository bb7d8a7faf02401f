"""A real Prometheus scrapes a service that asks for tokens, and evaluates dashboard and alerts."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.service import ROOT, free_port, running

MONITORING = ROOT / "deploy/kubernetes/monitoring.yaml"
SECRET = ROOT / "deploy/kubernetes/tokens.yaml"
DASHBOARD = ROOT / "deploy/grafana-dashboard.json"
MODEL = ROOT / "demo/models"
# What Grafana puts in place of the variables, where nothing is chosen.
GRAFANA = {"$__rate_interval": "1m"} | dict.fromkeys(
    ("$namespace", "$job", "$instance", "$endpoint"), ".*"
)
# There is no GPU, and no model is loaded on demand.
NOT_HERE = re.compile("inference_gpu_memory_|inference_model_(un)?load")

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="no prometheus on this machine: apt-get install prometheus",
)


def document(path: Path, kind: str) -> Any:
    (found,) = [one for one in yaml.safe_load_all(path.read_text()) if one["kind"] == kind]
    return found


RULES = document(MONITORING, "PrometheusRule")["spec"]
ALERTS = [rule["alert"] for rule in RULES["groups"][0]["rules"]]


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def by_secret(reference: dict[str, str]) -> str:
    secret = document(SECRET, "Secret")
    assert reference["name"] == secret["metadata"]["name"]
    return str(secret["stringData"][reference["key"]])


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        result: list[Any] = self.ask("query", query=expression)["result"]
        return result

    def wait_for(self, expression: str) -> None:
        ends_s = time.monotonic() + 60
        while time.monotonic() < ends_s:
            try:
                if self.query(expression):
                    return
            except (httpx.TransportError, json.JSONDecodeError):
                pass  # it starts: it does not listen yet, or answers a 503 that is no JSON
            time.sleep(0.2)
        raise TimeoutError(expression)


def configuration(folder: Path, port: int) -> Path:
    basic_auth = document(MONITORING, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["basicAuth"]
    pod = {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "default", "pod": "a"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": "default/multi2vec-clip",
                "basic_auth": {name: by_secret(one) for name, one in basic_auth.items()},
                "static_configs": [pod],
            },
            {"job_name": "other/multi2vec-clip", "static_configs": [pod]},  # without a token
        ],
    }
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yaml"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has seen texts on two interfaces, a refusal, a failed login and two rates of them."""
    folder = tmp_path_factory.mktemp("prometheus")
    tokens = folder / "tokens"
    tokens.write_text(document(SECRET, "Secret")["stringData"]["tokens"])
    token = tokens.read_text().split()[0]
    log = folder / "log"
    with running(log, MODELS_DIR=MODEL, AUTHENTICATION_ALLOWED_TOKENS_FILE=tokens) as service:
        port = free_port()
        command = [
            *("prometheus", "--log.level=warn", f"--web.listen-address=127.0.0.1:{port}"),
            f"--config.file={configuration(folder, service.port)}",
            f"--storage.tsdb.path={folder / 'data'}",
        ]
        with (folder / "prometheus.log").open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
        try:
            own = Prometheus(f"http://127.0.0.1:{port}")
            headers = {"Authorization": f"Bearer {token}"}
            for number in range(2):  # a rate is of two values
                texts = [f"text {number}", "text"]
                service.request("POST", "/vectorize", {"texts": texts}, headers)
                service.request("POST", "/v1/embeddings", {"input": texts}, headers)
                service.request("POST", "/vectorize", {"texts": 1}, headers)
                service.request("POST", "/vectorize", {"texts": texts})
                counted = f'inference_requests_total{{code="422"}} == {number + 1}'
                own.wait_for(counted)
                own.wait_for(f"count_over_time(({counted})[10s:1s]) >= 2")
            yield own
        finally:
            process.terminate()
            process.wait(timeout=20)


def test_the_secret_lets_it_in_and_without_one_an_alert_says_so(prometheus: Prometheus) -> None:
    up = {one["metric"]["job"]: one["value"][1] for one in prometheus.query("up")}
    prometheus.wait_for('ALERTS{alertname="InferenceNotScraped"}')

    assert up == {"default/multi2vec-clip": "1", "other/multi2vec-clip": "0"}
    (alert,) = prometheus.query('ALERTS{alertname="InferenceNotScraped"}')
    assert alert["metric"]["job"] == "other/multi2vec-clip"
    reasons = {one["lastError"] for one in prometheus.ask("targets")["activeTargets"]}
    assert reasons == {"", "server returned HTTP status 401 Unauthorized"}


@pytest.mark.parametrize("expression", dashboard_queries())
def test_each_query_of_the_dashboard_finds_something(
    prometheus: Prometheus, expression: str
) -> None:
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)

    assert "$" not in expression
    assert bool(prometheus.query(expression)) != bool(NOT_HERE.search(expression))


def test_endpoints_and_classes_of_status_stand_apart(prometheus: Prometheus) -> None:
    counted = prometheus.query(
        "sum by (endpoint, status_class) (inference_request_duration_seconds_count) > 0"
    )

    found = {(one["metric"]["endpoint"], one["metric"]["status_class"]) for one in counted}
    assert found == {("/vectorize", "2xx"), ("/vectorize", "4xx"), ("/v1/embeddings", "2xx")}


def test_every_alert_is_evaluated(prometheus: Prometheus) -> None:
    prometheus.wait_for("ALERTS")
    (group,) = prometheus.ask("rules")["groups"]

    assert [rule["name"] for rule in group["rules"]] == ALERTS
    assert [rule["health"] for rule in group["rules"]] == ["ok"] * len(ALERTS)


# For each alert a load under which it fires, and one under which it does not: series with their
# values of 60 minutes, one a minute.
REPLICA = 'inference_build_info{namespace="a",pod="1"}'
SECONDS = 'inference_queue_seconds{namespace="a",pod="1",modality="text"}'
CODES = 'inference_requests_total{namespace="a",pod="1",endpoint="/vectorize",code="%s"}'
SPACES = 'inference_model_info{namespace="a",job="j",pod="%s",vector_space="%s"}'
READY = 'kube_deployment_status_replicas_ready{namespace="a",deployment="multi2vec-clip"}'
WANTED = 'kube_deployment_spec_replicas{namespace="a",deployment="multi2vec-clip"}'
UP = 'up{namespace="a",job="a/multi2vec-clip",instance="1"}'
BY_LOAD = {
    "InferenceNotScraped": ({UP: "0x60"}, {UP: "1x60"}),
    "InferenceQueueLong": (
        {REPLICA: "1x60", SECONDS: "6x60"},
        {REPLICA: "1x60", SECONDS: "4x60"},
    ),
    "InferenceOverloaded": ({CODES % 429: "0+30x60"}, {CODES % 422: "0+30x60"}),
    "InferenceFailing": (
        {CODES % 200: "0+60x60", CODES % 504: "0+3x60"},
        {CODES % 200: "0+60x60", CODES % 429: "0+60x60", CODES % 422: "0+60x60"},
    ),
    "InferenceRequestsRefused": (
        {CODES % 200: "0+60x60", CODES % 401: "0+90x60"},
        {CODES % 200: "0+60x60", CODES % 429: "0+90x60", CODES % 500: "0+90x60"},
    ),
    "InferenceNotReady": ({READY: "1x60", WANTED: "2x60"}, {READY: "2x60", WANTED: "2x60"}),
    "InferenceVectorSpacesDiffer": (
        {SPACES % (1, "x"): "1x60", SPACES % (2, "y"): "1x60"},
        {SPACES % (1, "x"): "1x60", SPACES % (2, "x"): "1x60"},
    ),
}


def fired(alert: str, load: dict[str, str], folder: Path) -> bool:
    """Whether promtool finds that an alert fires after an hour of a load."""
    # It is told that none fires; what it says otherwise is what does.
    expected_none = {"eval_time": "60m", "alertname": alert, "exp_alerts": []}
    series = [{"series": name, "values": values} for name, values in load.items()]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": [expected_none]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    (folder / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]})
    )
    answer = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    reported = answer.stdout + answer.stderr
    assert ("SUCCESS" in reported) != (f"alertname: {alert}" in reported), reported
    return answer.returncode != 0


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_not_otherwise(alert: str, tmp_path: Path) -> None:
    bad, fine = BY_LOAD[alert]

    assert fired(alert, bad, tmp_path)
    assert not fired(alert, fine, tmp_path)


@pytest.mark.parametrize(
    ("spaces", "is_alert"),
    [
        ([(1, "clip"), (1, "minilm"), (2, "clip"), (2, "minilm")], False),
        ([(1, "clip"), (1, "minilm"), (2, "clip"), (2, "other")], True),
        ([(1, "clip"), (1, "minilm")], False),
    ],
)
def test_several_models_of_a_replica_are_no_difference(
    spaces: list[tuple[int, str]], is_alert: bool, tmp_path: Path
) -> None:
    load = {SPACES % one: "1x60" for one in spaces}

    assert fired("InferenceVectorSpacesDiffer", load, tmp_path) == is_alert


def test_replicas_may_have_loaded_other_models_on_demand(tmp_path: Path) -> None:
    load = {SPACES % one: "1x60" for one in ((1, "clip"), (2, "minilm"))}
    loads = 'inference_model_loads_total{namespace="a",job="j",pod="1",model="clip"}'

    assert fired("InferenceVectorSpacesDiffer", load, tmp_path)
    assert not fired("InferenceVectorSpacesDiffer", load | {loads: "1x60"}, tmp_path)


def test_an_alert_fires_where_no_replica_is_scraped_at_all(tmp_path: Path) -> None:
    assert fired("InferenceNotScraped", {'up{job="prometheus"}': "1x60"}, tmp_path)


def test_no_alert_knows_a_setting_of_the_service() -> None:
    """A threshold in items holds for one MAX_BATCH_SIZE."""
    expressions = " ".join(rule["expr"] for rule in RULES["groups"][0]["rules"])

    assert "inference_queue_items" not in expressions
