"""What the servers of ``fuseline up --auth`` refuse to strangers and to other sites' pages."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import psutil
import pytest

from tests.servers import PLANTED, Servers

EXPERIMENT = json.dumps({"name": "planted"}).encode()


def test_mlflow_asks_who_is_there(servers: Servers) -> None:
    for user in ((), ("admin", "wrong"), ("admin", "password1234")):
        status, _ = servers.get(f"{servers.mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default", *user)
        assert status == 401


def test_a_stranger_writes_no_file_of_a_model(servers: Servers) -> None:
    question = urllib.request.Request(
        f"{servers.mlflow}/api/2.0/mlflow-artifacts/artifacts/planted.txt", b"planted", method="PUT"
    )
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(question, timeout=60)
    assert list(servers.home.rglob("planted.txt")) == []


@pytest.mark.parametrize("headers", [{"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}])
def test_mlflow_refuses_other_hosts_and_other_sites(servers: Servers, headers: dict[str, str]) -> None:
    address = f"{servers.mlflow}/api/2.0/mlflow/experiments/create"
    status, text = servers.get(address, *servers.mlflow_user, body=EXPERIMENT, **headers)
    assert status == 403, text


def test_mlflow_leaves_its_folder_to_nobody(servers: Servers) -> None:
    for path in ("../../../../etc/passwd", "..%2F..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd"):
        status, text = servers.get(f"{servers.mlflow}/api/2.0/mlflow-artifacts/artifacts/{path}", *servers.mlflow_user)
        assert status in (400, 404)
        assert "root:" not in text


def test_prefect_asks_who_is_there(servers: Servers) -> None:
    for user in ((), ("admin", "wrong")):
        assert servers.get(f"{servers.prefect}/api/flows/filter", *user, body=b"{}")[0] in (401, 403)
        assert servers.get(f"{servers.prefect}/api/admin/version", *user)[0] == 401


def test_prefect_refuses_what_other_sites_pages_send(servers: Servers) -> None:
    address = f"{servers.prefect}/api/variables/"
    body = json.dumps({"name": "planted", "value": "planted"}).encode()
    status, text = servers.get(address, *servers.prefect_user, body=body, Origin="http://elsewhere.example")
    assert status == 403, text
    assert "csrf" in text.lower()


@pytest.mark.parametrize(("origin", "allowed"), [("http://elsewhere.example", False), (None, True)])
def test_prefect_lets_its_own_pages_read_and_no_others(servers: Servers, origin: str | None, allowed: bool) -> None:
    asked = urllib.request.Request(f"{servers.prefect}/api/health", headers={"Origin": origin or servers.prefect})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == (servers.prefect if allowed else None)


def test_all_listen_on_loopback_alone_and_no_secret_stands_in_a_command_line(servers: Servers) -> None:
    assert servers.process is not None
    family = psutil.Process(servers.process.pid).children(recursive=True)
    listening = {
        (part.laddr.ip, part.laddr.port) for its in family for part in its.net_connections("inet") if part.status == "LISTEN"
    }
    ports = {int(address.rpartition(":")[2]) for address in (servers.mlflow, servers.prefect)}
    assert {port for _, port in listening} >= ports
    assert {ip for ip, _ in listening} == {"127.0.0.1"}
    lines = " ".join(" ".join(its.cmdline()) for its in family)
    assert "mlflow" in lines
    assert [name for name, value in PLANTED.items() if value in lines] == []


def test_each_process_knows_its_own_secrets_alone(servers: Servers) -> None:
    assert servers.process is not None
    family = psutil.Process(servers.process.pid).children(recursive=True)
    worker = next(its.environ() for its in family if "flows.worker" in its.cmdline())
    assert worker["AWS_SECRET_ACCESS_KEY"] == PLANTED["AWS_SECRET_ACCESS_KEY"]  # the data may lie there
    of_servers = {*PLANTED, "PGPASSWORD", "MLFLOW_BACKEND_STORE_URI"} - {"AWS_SECRET_ACCESS_KEY"}
    assert of_servers & set(worker) == set()
    server = next(its.environ() for its in family if "mlflow" in its.cmdline() and "server" in its.cmdline())
    assert server["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE" not in server
