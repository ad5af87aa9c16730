"""Whatever is wrong with TLS between hapsync and a real Consul is said with what to do, and doing it helps."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul import network_errors
from hapsync.consul.client import ConsulClient
from hapsync.consul.endpoint import Endpoint
from hapsync.errors import CatalogError
from tests.harness.ports import free_ports
from tests.harness.processes import Process, short_folder, wait_until
from tests.harness.tools import consul_path


def tls(folder: Path, *command: str) -> None:
    subprocess.run([consul_path(), "tls", *command], cwd=folder, check=True, capture_output=True)


def ports(plain: int, https: int, server: int, serf: int) -> dict[str, int]:
    return {
        "http": plain,
        "https": https,
        "dns": -1,
        "grpc": -1,
        "serf_lan": serf,
        "serf_wan": -1,
        "server": server,
    }


def started(folder: Path, name: str) -> Process:
    command = [consul_path(), "agent", "-bind=127.0.0.1", "-client=127.0.0.1", f"-config-file={folder}/{name}.json"]
    return Process(command, folder / f"{name}.log")


def leader(config: ConsulConfig) -> str:
    with ConsulClient(config) as agent:
        return agent.read_leader()


def said(config: ConsulConfig) -> str:
    with pytest.raises(CatalogError) as caught:
        leader(config)
    return str(caught.value)


@attrs.frozen
class Stage:
    folder: Path
    server: ConsulConfig
    plain: int
    encrypted: int

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A server that wants client certificates, and a client agent that has its own by auto_encrypt."""
    with short_folder() as folder:
        tls(folder, "ca", "create")
        tls(folder, "cert", "create", "-server")
        tls(folder, "cert", "create", "-client")
        plain, https, rpc, serf = free_ports(4)
        files = {
            "ca_file": f"{folder}/consul-agent-ca.pem",
            "cert_file": f"{folder}/dc1-server-consul-0.pem",
            "key_file": f"{folder}/dc1-server-consul-0-key.pem",
        }
        settings = {
            "server": True,
            "bootstrap_expect": 1,
            "data_dir": f"{folder}/server",
            "node_name": "server",
            "ports": ports(plain, https, rpc, serf),
            "verify_incoming": True,
            "auto_encrypt": {"allow_tls": True},
            "connect": {"enabled": True},
            **files,
        }
        client_plain, encrypted, client_serf = free_ports(3)
        client = {
            "data_dir": f"{folder}/client",
            "node_name": "client",
            "ports": ports(client_plain, encrypted, rpc, client_serf),  # the server's port, for it asks there
            "ca_file": files["ca_file"],
            "auto_encrypt": {"tls": True},
            "verify_outgoing": True,
            "retry_join": [f"127.0.0.1:{serf}"],
        }
        (folder / "server.json").write_text(json.dumps(settings))
        (folder / "client.json").write_text(json.dumps(client))
        agents = [started(folder, "server")]
        config = ConsulConfig(
            address=f"https://localhost:{https}",
            ca_file=files["ca_file"],
            cert_file=f"{folder}/dc1-client-consul-0.pem",
            key_file=f"{folder}/dc1-client-consul-0-key.pem",
        )
        try:
            wait_until(lambda: leader(config), 30, "a leader over TLS", process=agents[0])
            agents.append(started(folder, "client"))
            yield Stage(folder, config, plain, encrypted)
        finally:
            for agent in agents:
                agent.stop()


def test_a_missing_client_certificate_names_the_keys(stage: Stage) -> None:
    words = said(attrs.evolve(stage.server, cert_file=None, key_file=None))

    assert "client certificate" in words
    assert "consul.cert_file and consul.key_file" in words


def test_a_client_certificate_of_another_authority_is_told_from_a_missing_one(stage: Stage, work: Path) -> None:
    tls(work, "ca", "create")
    tls(work, "cert", "create", "-client")
    other: dict[str, Any] = {
        "cert_file": f"{work}/dc1-client-consul-0.pem",
        "key_file": f"{work}/dc1-client-consul-0-key.pem",
    }

    assert "refuses the certificate in consul.cert_file" in said(attrs.evolve(stage.server, **other))


def test_plain_http_to_the_port_for_https_says_so(stage: Stage) -> None:
    plain = attrs.evolve(stage.server, address=stage.server.address.replace("https", "http"))

    assert 'begin consul.address with "https://"' in said(plain)


def test_https_to_the_port_for_plain_http_says_so(stage: Stage) -> None:
    wrong = attrs.evolve(stage.server, address=f"https://localhost:{stage.plain}")

    assert "does not speak TLS on this port" in said(wrong)


def test_a_name_that_is_not_in_the_certificate_is_told_with_those_that_may_be(stage: Stage) -> None:
    words = said(attrs.evolve(stage.server, address=stage.server.address.replace("localhost", "127.1")))

    assert "for other names" in words
    assert "`localhost`" in words


def test_an_agent_with_auto_encrypt_is_trusted_after_doing_what_the_error_says(stage: Stage, work: Path) -> None:
    config = attrs.evolve(stage.server, address=f"https://localhost:{stage.encrypted}", cert_file=None, key_file=None)
    wait_until(lambda: "/v1/connect/ca/roots?pem=1" in said(config), 30, "the agent to have its certificate")

    with ConsulClient(stage.server) as server:
        answer = server.ask("/v1/connect/ca/roots", params=[("pem", "1")])
    roots = work / "roots.pem"
    roots.write_bytes(answer.body)

    assert leader(attrs.evolve(config, ca_file=str(roots)))


def test_certificate_files_that_cannot_be_used_are_named_by_their_keys(stage: Stage, work: Path) -> None:
    empty, encrypted = work / "empty.pem", work / "encrypted.pem"
    empty.write_text("")
    begin, _, key = Path(stage.file("dc1-client-consul-0-key.pem")).read_text().partition("\n")
    encrypted.write_text(f"{begin}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{'0' * 32}\n\n{key}")
    cases: dict[str, dict[str, Any]] = {
        f"ca_file {work}/none: No such file": {"ca_file": f"{work}/none"},
        f"ca_file {empty}: holds no certificate": {"ca_file": str(empty)},
        f"cert_file {empty}: holds no certificate": {"cert_file": str(empty)},
        "is not the key of the certificate": {"key_file": stage.file("dc1-server-consul-0-key.pem")},
        "is encrypted": {"key_file": str(encrypted)},
    }

    for words, wrong in cases.items():
        assert words in said(attrs.evolve(stage.server, **wrong))


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (10, "certificate has expired", "has expired (certificate has expired); renew it on the agent's side"),
        (9, "certificate is not yet valid", "are the clocks of both machines right?"),
        (64, "IP address mismatch", "for other names"),
        (24, "invalid CA certificate", "TLS: invalid CA certificate"),
    ],
)
def test_what_openssl_says_of_a_certificate_is_told_with_what_to_do(code: int, message: str, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message  # Consul makes no certificate that has expired

    assert words in network_errors.words(error, Endpoint("localhost", 8501, None, ssl.create_default_context()))
