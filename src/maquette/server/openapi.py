"""The API's own description."""

from importlib.metadata import version
from typing import Any

from litestar import Request, Router, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import BaseRoute
from litestar.types import ControllerRouterHandler

KEY = "api-key"
"""What the schema calls the permission that an API key gives."""


class _NoRoutes(Router):
    """Takes in none of the pages that the framework serves by itself: `openapi_json` is the one place."""

    def register(self, value: ControllerRouterHandler) -> list[BaseRoute]:  # noqa: ARG002
        """Leave it out."""
        return []


def openapi_config() -> OpenAPIConfig:
    """Title and version; the schema itself is derived from the routes."""
    return OpenAPIConfig(
        title="Maquette",
        version=version("maquette"),
        use_handler_docstrings=True,
        components=Components(security_schemes={KEY: SecurityScheme(type="http", scheme="bearer")}),
        render_plugins=[JsonRenderPlugin()],
        openapi_router=_NoRoutes("/schema", route_handlers=[]),
    )


@get("/openapi.json", include_in_schema=False)
async def openapi_json(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The OpenAPI document."""
    return request.app.openapi_schema.to_schema()
