"""Lets requests in that carry a good key. Which routes it guards is said in `maquette.server.app`."""

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from maquette.db.engine import Database
from maquette.server.access.service import authenticate


class KeyRequired(AbstractAuthenticationMiddleware):
    """Answers 403 without a good key; behind it, the request's `user` is the tenant's id."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        """Find the tenant.

        Raises:
            InvalidApiKey: see there.
        """
        database: Database = connection.app.state.database
        async with database.read() as conn:
            return AuthenticationResult(await authenticate(conn, connection.headers.get("authorization")), None)


def tenant_of(request: Request[str, Any, Any]) -> str:
    """Id of the tenant that sent a request."""
    return request.user
