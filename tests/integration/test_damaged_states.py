"""An object of live is damaged while the daemon runs; the command of the condition repairs it."""

import asyncio
import shlex
from pathlib import Path

import httpx
import pytest

from daemon import service
from daemon.cli import app
from daemon.publishing import layout
from daemon.timers import stored_states
from tests.support.buckets import SCOPE, pointer
from tests.support.daemon_in_process import running
from tests.unit.daemon.http.service import STRUCTURED, state_event


async def degraded(client: httpx.AsyncClient) -> dict[str, str]:
    """The conditions, without those of events: between two such quick checks, none is settled."""
    checks = (await client.get("/readyz")).json()["checks"]
    return {
        check["name"]: check["detail"]
        for check in checks
        if check["degraded"] and check["name"] not in {"lane", "dispatch"}
    }


async def publish(client: httpx.AsyncClient, revision: int) -> None:
    event = state_event(revision)
    answer = await client.post("/v1/events", json=event, headers=STRUCTURED)
    assert answer.status_code == 202
    path = f"/v1/events/{event['id']}"
    while not (await client.get(path)).json()["events"][0]["acknowledged_at"]:
        pass


def test_damage_of_live_is_one_condition_until_its_remedy_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(stored_states, "_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(stored_states, "_RETRY_SECONDS", 0.05)

    async def scenario() -> None:
        bucket = tmp_path / "bucket"
        async with asyncio.timeout(120), running(tmp_path, {}) as client:
            await publish(client, 1)
            await publish(client, 2)
            before = await asyncio.to_thread(pointer, bucket)
            assert await degraded(client) == {}
            live = before.live
            assert live is not None
            (bucket / layout.manifest(SCOPE, live.state, live.attempt)).write_text("{")
            while not (found := await degraded(client)):
                pass
            assert list(found) == ["damaged"]
            command = shlex.split(found["damaged"].rpartition("; rebundle ")[2])
            assert await asyncio.to_thread(app.run, [*command, "--yes"]) == 0
            while await degraded(client):
                pass
            after = await asyncio.to_thread(pointer, bucket)
            assert [publication.state for publication in after.retained] == ["state-1"]

    asyncio.run(scenario())
