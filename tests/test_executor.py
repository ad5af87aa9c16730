"""Work beside the agent's thread returns values, wakes the agent, and loses no defect."""

import logging
import threading

import pytest

from hapsync.agent.executor import Executor, value_of
from hapsync.errors import CatalogError, HapsyncError


def fail(error: Exception) -> int:
    raise error


def test_a_value_is_there_when_the_agent_is_woken() -> None:
    woken = threading.Event()
    future = Executor(woken.set).submit("sum", lambda: 1 + 1)
    assert woken.wait(10)
    assert future.done()
    assert value_of(future) == 2


def test_an_error_is_a_value_and_a_defect_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = CatalogError("Consul is away")
    refused = Executor().submit("read", lambda: fail(error))
    assert value_of(refused) is error
    defect = Executor().submit("read", lambda: fail(KeyError("wrong")))
    with caplog.at_level(logging.ERROR):
        value = value_of(defect)
    assert isinstance(value, HapsyncError)
    assert "a defect of hapsync" in caplog.text
    assert "KeyError: 'wrong'" in caplog.text
    with pytest.raises(KeyError):
        defect.result()


def test_work_without_a_thread_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    woken = threading.Event()
    future = Executor(woken.set).submit("sum", lambda: 1 + 1)
    assert woken.is_set()
    assert value_of(future) == 2
