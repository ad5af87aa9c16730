"""At a lower rate there are as many fewer clients and requests, of every kind of traffic."""

import asyncio
from pathlib import Path

import pytest

from tests.lab.serving import Serve, only, sent_by, target
from tests.lab.test_client import OK, answers
from tests.lab.test_dialogues import echoes, serving
from tests.lab.traffic.__main__ import SENDERS
from tests.lab.traffic.http1 import Kept
from tests.lab.traffic.sent import Traffic
from tests.lab.traffic.websocket import WebSocket
from tests.lab.traffic.wrk import Wrk


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("kind", SENDERS)
def test_clients_and_requests_of_every_kind_are_as_many_fewer(kind: Traffic, rate: float, tmp_path: Path) -> None:
    usual = SENDERS[kind]
    lower = usual(target(tmp_path, 1), rate)

    assert lower.clients / lower.pause_seconds == pytest.approx(rate * usual.clients / usual.pause_seconds)
    assert lower.clients == max(usual.least_clients, round(usual.clients * rate))


def test_half_the_rate_is_half_the_connections_and_half_the_requests() -> None:
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        await answers(OK)(reader, writer)

    usual = sent_by(Kept, serve, seconds=0.5)
    assert len(connections) == 4
    connections.clear()
    lower = sent_by(Kept, serve, seconds=0.5, rate_fraction=0.5)
    assert len(connections) == 2
    assert only(lower, "answered")
    assert lower.begun == pytest.approx(usual.begun / 2, rel=0.4)


def test_where_one_client_is_more_than_there_should_be_it_talks_as_much_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lab.traffic.dialogues.EVERY_SECONDS", 0.01)
    echo: Serve = serving(WebSocket, echoes)
    usual, lower = (sent_by(WebSocket, echo, seconds=1.0, rate_fraction=rate) for rate in (1.0, 0.05))

    assert len({request.connected for request in lower.requests} - {None}) == 1
    assert lower.begun == pytest.approx(usual.begun / 20, rel=0.5)


def test_a_part_of_wrks_connections_is_one_at_least(tmp_path: Path) -> None:
    assert [Wrk(target(tmp_path, 1), rate).connections for rate in (1.0, 0.25, 0.001)] == [32, 8, 1]
