"""Adds the endpoints to FastAPI's OpenAPI description, as they are not FastAPI's routes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from http.client import responses as phrases
from types import UnionType
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from errors import Reason
from web.auth import TokenAuth
from web.endpoints.base import Endpoint
from web.endpoints.error_format import ErrorFormat, ErrorInfo, SentenceErrors
from web.endpoints.openai_api import OpenAIErrors
from web.errors import HEADERS, STATUS
from web.service import Service

_REFERENCE = "#/components/schemas/{name}"
_PLACES = {
    "type": "string",
    "pattern": r"^\d+(-\d+)?(,\d+(-\d+)?)*(,\.\.\.)?$",
    "examples": ["0,3-5"],
}
_TRUNCATED = {
    "description": "Which items are longer than the model reads, so that their ends count for "
    "nothing: their places in the request, from 0. It is missing where there are none.",
    "schema": _PLACES,
}
_TOKENS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token that is allowed."},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "A token that is allowed, as the password; any user's name will do.",
    },
}
# An example message for each status, with its reason and the field or item at fault.
_EXAMPLES: dict[int, tuple[str, Reason, str]] = {
    401: ("send a token that is allowed: Authorization: Bearer <token>", "token", ""),
    404: ("GET /v1/models/clip: no such model; there is: org/some-clip", "route", ""),
    408: ("the body took over 45 s to arrive", "slow_body", ""),
    413: ("300 texts and images; at most 256 are allowed in one request", "items", ""),
    415: (
        "the request body has Content-Encoding: gzip; send it as it is, without one",
        "encoding",
        "",
    ),
    422: ("images[1]: not an image", "not_an_image", "images[1]"),
    429: ("overloaded: 4096 items wait already; send less at a time", "overload", ""),
    499: ("the client has gone", "gone", ""),
    500: ("internal error; the service's log has the details", "bug", ""),
    503: ("the device is lost: CUDA error: unspecified launch failure", "unhealthy", ""),
    504: ("not answered within 45 s", "timeout", ""),
}
_OF_VECTORS = {
    "X-Truncated": _TRUNCATED,
    "X-No-Tokens": {
        "description": "Which texts hold no token that the model knows, so that their vectors are "
        "zeros: their places in the request, from 0. It is missing where there are none.",
        "schema": _PLACES,
    },
}


def describe(app: FastAPI, endpoints: Sequence[type[Endpoint[Any]]]) -> None:
    """Add the endpoints to an application's OpenAPI description.

    Once models are loaded, only endpoints that fit one of them are described.
    """
    of_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        described = of_fastapi()  # built again if routes were added
        service: Service | None = getattr(app.state, "service", None)
        answered = service.models.endpoints() if service else endpoints
        if not {one.paths[0] for one in answered} <= described["paths"].keys():
            _restore_nulls(described, app.routes)
            # Without names, no request can name an unknown model.
            never = () if service and service.models.have_names else (404,)
            described = app.openapi_schema = with_endpoints(described, answered, never)
        if service:
            _describe_tokens(described, service.access)
        return described

    app.openapi = openapi  # type: ignore[method-assign] # as in FastAPI's manual


def _restore_nulls(described: dict[str, Any], routes: Iterable[BaseRoute]) -> None:
    """Restore the examples of FastAPI's routes, as FastAPI removes fields that are null."""
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                responses = described["paths"][route.path_format][method.lower()]["responses"]
                for status, answer in route.responses.items():
                    responses[str(status)]["content"] = answer["content"]


def _describe_tokens(described: dict[str, Any], access: TokenAuth) -> None:
    """Describe how a request sends a token, and which paths need a token."""
    described["components"]["securitySchemes"] = _TOKENS
    anybody: list[dict[str, list[str]]] = [] if access.requires_token else [{}]
    described["security"] = [*anybody, *({scheme: []} for scheme in _TOKENS)]
    for path in access.open_paths & described["paths"].keys():
        for operation in described["paths"][path].values():
            operation["security"] = []


def with_endpoints(
    described: dict[str, Any],
    endpoints: Sequence[type[Endpoint[Any]]],
    never: Collection[int] = (),
) -> dict[str, Any]:
    """Return FastAPI's description with the endpoints before its own routes.

    Args:
        described: FastAPI's description.
        endpoints: the endpoints.
        never: statuses that no endpoint answers.
    """
    statuses = set(STATUS.values()).difference(never)
    schemas = _schemas(endpoints)
    paths = {
        path: {"post": _operation(one, path, schemas, statuses), **described["paths"].get(path, {})}
        for one in endpoints
        for path in one.paths
    }
    among_others = {kind for one in endpoints if one.alternatives for kind in _forms(one)}
    for kind in {*endpoints} - among_others:  # the operation itself contains the schema
        schemas.pop(kind.description.request.__name__, None)
    return {
        **described,
        "paths": {**paths, **described["paths"], **paths},  # endpoints come first, with their GET
        "components": {"schemas": {**described["components"]["schemas"], **schemas}},
    }


def _forms(endpoint: type[Endpoint[Any]]) -> tuple[type[Endpoint[Any]], ...]:
    """Return an endpoint and the alternatives on its paths."""
    return (endpoint, *endpoint.alternatives)


def _schemas(endpoints: Sequence[type[Endpoint[Any]]]) -> dict[str, Any]:
    kinds: list[type] = [SentenceErrors.schema, OpenAIErrors.schema]  # other routes use them, too
    for endpoint in endpoints:
        for one in _forms(endpoint):
            kinds += [one.description.request, *_response_types(one), one.errors.schema]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    return schemas


def _operation(
    endpoint: type[Endpoint[Any]], path: str, schemas: dict[str, Any], statuses: Collection[int]
) -> dict[str, Any]:
    forms = _forms(endpoint)
    requests = [one.description.request for one in forms]
    request = schemas[requests[0].__name__] if len(requests) == 1 else _any_of(map(_ref, requests))
    examples = [example for one in forms for example in one.description.examples]
    kinds = [kind for one in forms for kind in _response_types(one)]
    # References to the schemas of Structs, and the schemas of other types.
    responses, _ = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    return {
        "tags": ["model"],
        "summary": endpoint.description.summary,
        "operationId": path[1:].replace("/", "_") or "root",
        "requestBody": {"required": True, "content": _json({**request, "examples": examples})},
        "responses": {
            "200": {
                "description": "The scores" if endpoint.scores else "The vectors",
                "headers": {"X-Truncated": _TRUNCATED} if endpoint.scores else _OF_VECTORS,
                "content": _json(_any_of(responses)),
            },
            **error_responses(statuses, *(one.errors for one in forms)),
        },
    }


def error_responses(
    statuses: Iterable[int], *errors: ErrorFormat
) -> dict[int | str, dict[str, Any]]:
    """Describe error responses and their headers for OpenAPI.

    The schema allows every format in `errors`. Statuses and examples use the first format
    (`SentenceErrors` if there is none).
    """
    shapes = errors or (SentenceErrors(),)
    answered: dict[int, list[ErrorInfo]] = {}  # some formats merge two statuses
    for status in sorted(statuses):
        shown = shapes[0].status(status)
        answered.setdefault(shown, []).append(ErrorInfo(shown, *_EXAMPLES[status]))
    schema = _any_of(_ref(one.schema) for one in shapes)
    return {
        str(status): {
            "description": phrases.get(status, "The client has gone"),
            "headers": _headers(status),
            "content": {
                "application/json": {
                    "schema": schema,
                    "examples": {
                        one.reason: {"value": msgspec.json.decode(shapes[0].body(one))}
                        for one in infos
                    },
                }
            },
        }
        for status, infos in sorted(answered.items())
    }


def _headers(status: int) -> dict[str, Any]:
    names = ["X-Request-ID", *([HEADERS[status]] if status in HEADERS else [])]
    return {name: {"required": True, "schema": {"type": "string"}} for name in names}


def _response_types(endpoint: type[Endpoint[Any]]) -> Sequence[Any]:
    """Return the types of an endpoint's answers singly, as msgspec does not describe unions."""
    response = endpoint.description.response
    return get_args(response) if isinstance(response, UnionType) else [response]


def _any_of(schemas: Iterable[dict[str, Any]]) -> dict[str, Any]:
    known = list(schemas)
    return {"anyOf": known} if len(known) > 1 else known[0]


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
