"""Refusals as problem documents, including those of the framework and of programming errors."""

import asyncio
from http import HTTPStatus

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from daemon.http.problems import RequestRefused, answer_everything, unavailable
from events.errors import Problem


def answered(error: Exception) -> httpx.Response:
    app = FastAPI()
    answer_everything(app)

    @app.get("/")
    async def fail(number: int = 0) -> None:
        raise error

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(
                "/", params={"number": "x"} if isinstance(error, LookupError) else {}
            )

    return asyncio.run(ask())


def test_a_refusal_explains_what_is_wrong_where_and_what_to_do() -> None:
    response = answered(
        RequestRefused(
            HTTPStatus.CONFLICT,
            "conflict",
            "use another id",
            errors=[Problem("$.id", "must be new", "'a'")],
        )
    )
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:rebundle:problem:conflict",
        "title": "Conflict",
        "status": 409,
        "detail": "use another id",
        "errors": [{"path": "$.id", "expected": "must be new", "found": "'a'"}],
    }


def test_a_temporary_refusal_has_retry_after() -> None:
    response = answered(unavailable("busy", "too many", retry_after=5))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "errors" not in response.json()


def test_a_refusal_of_the_framework_is_a_problem_document_with_its_headers() -> None:
    response = answered(HTTPException(405, headers={"allow": "GET"}))
    assert (response.status_code, response.headers["allow"]) == (405, "GET")
    assert response.json()["type"] == "urn:rebundle:problem:method-not-allowed"


def test_invalid_parameters_are_named() -> None:
    response = answered(LookupError())
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] == "query.number"


@pytest.mark.parametrize("error", [ValueError("of ours"), RuntimeError("of ours")])
def test_a_programming_error_reveals_nothing(error: Exception) -> None:
    response = answered(error)
    assert response.status_code == 500
    assert response.json()["type"] == "urn:rebundle:problem:internal"
    assert "of ours" not in response.text
