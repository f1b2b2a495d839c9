"""The composition root: which routes there are, who may call them, and what they are given."""

from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from maquette.db.engine import Database
from maquette.server.access.middleware import KeyRequired, tenant_of
from maquette.server.account import routes as account
from maquette.server.assets import routes as assets
from maquette.server.base_url import base_url_of
from maquette.server.health import healthz, readyz
from maquette.server.http_errors import EXCEPTION_HANDLERS
from maquette.server.idempotency import idempotency_of
from maquette.server.images import routes as images
from maquette.server.lingering import Lingering
from maquette.server.models import routes as models
from maquette.server.openapi import KEY, openapi_config, openapi_json
from maquette.server.queries import TidyQueries
from maquette.server.settings import Settings
from maquette.server.signing import open_signer
from maquette.server.training import routes as training
from maquette.serving.base import Pool
from maquette.storage.base import Storage

OPEN: list[ControllerRouterHandler] = [healthz, readyz, openapi_json]
"""Routes for everybody."""

SIGNED: list[ControllerRouterHandler] = [assets.receive_upload, images.picture, models.download_model]
"""Routes whose address is the permission."""

KEYED: list[ControllerRouterHandler] = [
    assets.create_asset,
    training.create_subject,
    training.create_style,
    training.task_status,
    training.list_tasks,
    training.task_detail,
    training.cancel_task,
    training.task_events,
    training.task_metrics,
    training.task_weights,
    training.task_checkpoints,
    training.checkpoint_weights,
    training.checkpoint_sample,
    images.text_to_image,
    images.task_result,
    models.list_models,
    account.show_user,
    account.show_balance,
]
"""Routes that need an API key, under `/v3`; known clients leave the prefix out here and there, so it is optional."""

WITH_PICTURE: list[ControllerRouterHandler] = [images.image_to_image]
"""Such routes whose bodies carry a picture, and may be so much larger."""


def create_app(settings: Settings, database: Database, storage: Storage, pool: Pool | None = None) -> Litestar:
    """The API as an ASGI application. Opening, migrating and closing what it is given is the caller's part.

    Without the `pool` that draws what is asked for here, nothing is said of how drawing does.
    """
    state = state_of(settings, database, storage, pool)
    return Litestar(
        [*OPEN, *SIGNED, *_keyed("/v3", settings), *_keyed("/", settings, include_in_schema=False)],
        dependencies={
            **{name: _of_state(name) for name in state},
            "base_url": Provide(base_url_of, sync_to_thread=False),
        },
        state=State(state, deep_copy=False),
        middleware=[Lingering(), TidyQueries()],
        cors_config=_cross_origin(settings),
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=openapi_config(),
        logging_config=None,
    )


def state_of(settings: Settings, database: Database, storage: Storage, pool: Pool | None = None) -> dict[str, object]:
    """What the application's state holds, and calls are given by these names."""
    return {
        "settings": settings,
        "database": database,
        "storage": storage,
        "pool": pool,
        "signer": open_signer(settings),
    }


def _cross_origin(settings: Settings) -> CORSConfig | None:
    """Lets pages of the allowed origins call, and read beside the answers what a browser would keep from them."""
    if not settings.allowed_origins:
        return None
    return CORSConfig(allow_origins=settings.allowed_origins, expose_headers=["Content-Disposition", "Retry-After"])


def _keyed(path: str, settings: Settings, *, include_in_schema: bool = True) -> list[Router]:
    return [
        Router(
            path,
            route_handlers=handlers,
            middleware=[KeyRequired],
            dependencies={
                "tenant_id": Provide(tenant_of, sync_to_thread=False),
                "once": Provide(idempotency_of),
            },
            request_max_body_size=largest,
            security=[{KEY: []}],
            include_in_schema=include_in_schema,
        )
        for handlers, largest in ((KEYED, settings.max_body_bytes), (WITH_PICTURE, settings.max_body_with_picture))
    ]


def _of_state(name: str) -> Provide:
    def given(state: State) -> object:
        return state[name]

    return Provide(given, sync_to_thread=False)
