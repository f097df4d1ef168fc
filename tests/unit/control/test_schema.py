"""The OpenAPI document, held against the running API by schemathesis: what it allows is answered as it says."""

import asyncio
from typing import Any

import hypothesis
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.fakes.server import FakeServer
from tests.support.control import TOKEN, UNHURRIED, api
from tests.support.database import OpencodeFile
from tests.support.program import path, rows
from tests.unit.cli.test_commands import at_work
from tests.unit.control.test_app import lost

__all__ = ["path", "rows"]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
    unsupported_method,
]
SETTINGS = hypothesis.settings(
    max_examples=12,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
READY = "/readyz"
"""503 is its answer, and no failure, where something can't be used."""
STREAMS = {"/api/v1/events", "/api/v1/state/events"}
"""They never end, so they can't be asked like the others; their own tests do."""


async def test_the_api_keeps_what_its_document_promises(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    lost(rows)
    async with api(rows, fake, bounds=UNHURRIED) as served:
        document = await served.ask("GET", "/api/v1/openapi.json")
        assert document["openapi"].startswith("3.1")
        asked = await asyncio.to_thread(_ask_everything, document, served.url)
        assert (await served.client.get("/healthz")).status_code == 200
    assert len(asked) == 18
    assert all(count >= 10 for label, count in asked.items() if "{" in label), asked


def _ask_everything(document: dict[str, Any], url: str) -> dict[str, int]:
    """Ask each operation with what the document allows, and with what it does not; how often each was asked."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    operations: list[Any] = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    return {each.label: _ask(each) for each in operations if each.path not in STREAMS}


def _ask(operation: Any) -> int:  # noqa: ANN401 - schemathesis' own
    checks = [each for each in CHECKS if operation.path != READY or each is not not_a_server_error]
    asked = 0

    def ask(case: Any) -> None:  # noqa: ANN401 - as above
        nonlocal asked
        asked += 1
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=checks)

    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        cases = operation.as_strategy(generation_mode=mode)
        asking = hypothesis.seed(5)(SETTINGS(hypothesis.given(case=cases)(ask)))
        try:
            asking()
        except hypothesis.errors.Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE, operation.label
    return asked
