"""The service against its own description: every answer is one that it announces."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.golden_cases import GOLDEN
from tests.service import running

Operation: TypeAlias = APIOperation[Any, Any, Any, Any]
AnyCase: TypeAlias = Case[Any]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture(scope="module")
def live_description(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    log = tmp_path_factory.mktemp("openapi") / "log"
    with running(log, MODELS_DIR=GOLDEN / "openai") as service:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")


def check_all(operation: Operation, mode: GenerationMode) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: AnyCase) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


def test_every_answer_is_one_that_the_description_announces(live_description: BaseSchema) -> None:
    for path in ("/vectorize", "/meta", "/metrics", "/.well-known/live", "/.well-known/ready", "/"):
        for operation in live_description[path].values():
            check_all(operation, GenerationMode.POSITIVE)


def test_so_is_the_answer_to_what_the_description_forbids(live_description: BaseSchema) -> None:
    check_all(live_description["/vectorize"]["POST"], GenerationMode.NEGATIVE)
