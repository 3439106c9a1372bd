"""Who may speak to the workers that we start: this process, and nobody else on the machine."""

import asyncio
import os
import socket
from collections.abc import Iterator

import psutil
import pytest
from distributed import Security
from distributed.core import connect

from wsi_pipeline.engine.cluster import OnDask, dask_executor
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.settings import StageConfig


@pytest.fixture(scope="module")
def executor() -> Iterator[OnDask]:
    with dask_executor(StageConfig(workers=1)) as begun:
        yield begun


def addresses(executor: OnDask) -> list[str]:
    """Of the scheduler, the worker and its nanny."""
    known = executor._client.scheduler_info()
    workers = known["workers"]
    nannies = [worker["nanny"] for worker in workers.values()]
    return [known["address"], *workers, *nannies]


def listening() -> set[tuple[str, int]]:
    """Where this process and those that it started listen."""
    here = psutil.Process(os.getpid())
    return {
        (place.laddr.ip, place.laddr.port)
        for process in (here, *here.children(recursive=True))
        for place in process.net_connections(kind="tcp")
        if place.status == psutil.CONN_LISTEN
    }


def reached(address: str, security: Security | None) -> bool:
    """Whether somebody gets as far as being able to ask for something."""

    async def shake_hands() -> bool:
        args = security.get_connection_args("client") if security else {}
        try:
            comm = await connect(address, timeout=3, **args)
        except (OSError, RuntimeError, TypeError):
            return False
        comm.abort()
        return True

    return asyncio.run(shake_hands())


def test_a_stranger_on_the_machine_is_refused(executor: OnDask) -> None:
    ours = executor._client.security
    places = addresses(executor)
    assert len(places) == 3
    for address in places:
        assert address.startswith("tls://127.0.0.1:")
        assert reached(address, ours), "with the credentials it answers"
        assert not reached(address.replace("tls://", "tcp://"), None), "without TLS"
        assert not reached(address, Security.temporary()), "with another cluster's certificate"


def test_nothing_is_served_over_http(executor: OnDask) -> None:
    known = executor._client.scheduler_info()
    assert known["services"] == {}
    assert all(worker["services"] == {} for worker in known["workers"].values())
    ports = listening()
    asked = {int(address.rpartition(":")[2]) for address in addresses(executor)}
    assert {port for ip, port in ports if port in asked} == asked
    assert all(port != 8787 for _, port in ports)
    assert all(ip == "127.0.0.1" for ip, _ in ports)
    for place in ports:
        with socket.create_connection(place, timeout=3) as plain:
            plain.sendall(b"GET /info HTTP/1.0\r\n\r\n")
            plain.settimeout(3)
            try:
                said = plain.recv(64)
            except OSError:
                said = b""
        assert not said.startswith(b"HTTP"), place


def test_the_certificate_is_for_one_cluster_and_on_no_disk(executor: OnDask) -> None:
    ours = executor._client.security
    assert ours.require_encryption
    assert "PRIVATE KEY" in ours.tls_worker_key, "in memory, not the name of a file"
    assert ours.tls_worker_key != Security.temporary().tls_worker_key


def test_a_dashboard_that_cannot_be_drawn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_pipeline.engine.cluster.find_spec", lambda _: None)
    config = StageConfig(workers=1, dashboard=True)
    with pytest.raises(ConfigError, match="pip install bokeh"), dask_executor(config):
        pass
