"""A real S3 server on loopback, for tests of what is kept in buckets."""

from collections.abc import Generator
from contextlib import contextmanager

import httpx
from moto.server import ThreadedMotoServer
from msgspec import Struct

OWNER = "AWS test:signature"
"""Nobody checks the signature, but only whoever has one may read."""


class S3Server(Struct, frozen=True):
    """An S3 server; it asks for no credentials.

    Attributes:
        endpoint: its address.
        environment: the variables by which an operator would name it.
    """

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def empty(self, *buckets: str) -> None:
        """Forget everything, and make these buckets."""
        httpx.post(f"{self.endpoint}/moto-api/reset").raise_for_status()
        for bucket in buckets:
            httpx.put(f"{self.endpoint}/{bucket}").raise_for_status()

    def get(self, bucket: str, key: str) -> httpx.Response:
        """An object, as its bucket's owner gets it."""
        return httpx.get(f"{self.endpoint}/{bucket}/{key}", headers={"Authorization": OWNER})


@contextmanager
def s3_server() -> Generator[S3Server]:
    """Start a server; it ends with the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()
