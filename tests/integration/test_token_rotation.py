"""A token is rotated while the daemon runs."""

import asyncio
from pathlib import Path

import pytest

from daemon import service
from tests.support.daemon_in_process import running
from tests.unit.daemon.http.service import bearer

FORMER, NEW = "former-token-0123456789", "new-token-0123456789"


def write(file: Path, token: str, mode: int) -> None:
    half = file.with_suffix(".half")
    half.write_text(token)
    half.chmod(mode)
    half.rename(file)


def test_a_new_token_works_without_a_restart_and_a_bad_file_keeps_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CHECK_SECONDS", 0.01)
    file = tmp_path / "token"
    write(file, FORMER, 0o440)

    async def scenario() -> None:
        async with (
            asyncio.timeout(60),
            running(tmp_path, {"REBUNDLE_HTTP__TOKEN_FILE": str(file)}) as client,
        ):

            async def status(token: str) -> int:
                return (await client.get("/v1/events/unknown", headers=bearer(token))).status_code

            async def degraded() -> list[str]:
                checks = (await client.get("/readyz")).json()["checks"]
                return [check["name"] for check in checks if check["degraded"]]

            assert (await status(FORMER), await status(NEW)) == (404, 401)
            write(file, NEW, 0o644)
            while "token" not in (await degraded()):
                pass
            assert (await status(FORMER), await status(NEW)) == (404, 401)
            write(file, NEW, 0o440)
            while await status(NEW) != 404:
                pass
            assert await status(FORMER) == 401
            while "token" in await degraded():
                pass

    asyncio.run(scenario())
