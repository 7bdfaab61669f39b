"""schemathesis over the OpenAPI document: every response fits it, and no 5xx but the declared 503."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pandas as pd
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlkit.config import Settings
from mlkit.inference.api.app import create_app
from mlkit.inference.api.options import ServeOptions
from mlkit.models.bundle.bundle import ModelBundle

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 60  # of each of six endpoints; the bench asks for thousands

PATHS = [f"/api/ml/{part}/{{symbol}}" for part in ("insights", "patterns", "price-prediction", "signals")]


@pytest.fixture(scope="module")
def document(market: tuple[Settings, pd.DataFrame], trained: ModelBundle) -> Iterator[Any]:
    app = create_app(market[0], ServeOptions(allowed_hosts=("testserver",)))
    app.state.service.markets.answer(("TEST", "1d"))  # the first one loads the models, which no request should wait for
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    app.state.service.close()


def test_the_document_holds_every_endpoint(document: Any) -> None:
    assert [operation.ok().path for operation in document.get_all_operations()] == [
        *PATHS,
        "/api/ml/status",
        "/healthz",
    ]


@pytest.mark.parametrize("path", [*PATHS, "/api/ml/status", "/healthz"])
@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
def test_every_response_fits_the_document(path: str, document: Any) -> None:
    seen: dict[int, int] = {}

    @hypothesis.settings(max_examples=EXAMPLES if path in PATHS else 5, deadline=None, derandomize=True, database=None)
    @hypothesis.given(case=document[path]["GET"].as_strategy(), known=st.booleans(), timeframe=st.booleans())
    def ask(case: Any, known: bool, timeframe: bool) -> None:
        if known and case.path_parameters:
            case.path_parameters["symbol"] = "TEST"  # else hardly any case would find bars
        if timeframe and case.query:
            case.query["timeframe"] = "1d"
        status = case.call_and_validate(checks=CHECKS).status_code
        seen[status] = seen.get(status, 0) + 1

    ask()
    assert set(seen) <= {200, 404, 422}
    assert seen[200] >= 1 and (path not in PATHS or len(seen) > 1)
