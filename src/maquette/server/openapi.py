"""The API's own description."""

from importlib.metadata import version
from typing import Any

from litestar import Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

KEY = "api-key"
"""What the schema calls the permission that an API key gives."""


def _refuse_unknown(response: Response[Any]) -> Response[Any]:
    """The framework answers unknown paths below its own in HTML; ours read like all others."""
    if response.status_code == 404:
        raise NotFoundException
    return response


def openapi_config() -> OpenAPIConfig:
    """Title and version; the schema itself is derived from the routes."""
    return OpenAPIConfig(
        title="Maquette",
        version=version("maquette"),
        use_handler_docstrings=True,
        components=Components(security_schemes={KEY: SecurityScheme(type="http", scheme="bearer")}),
        render_plugins=[JsonRenderPlugin()],
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, after_request=_refuse_unknown),
    )


@get("/openapi.json", include_in_schema=False)
async def openapi_json(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The OpenAPI document."""
    return request.app.openapi_schema.to_schema()
