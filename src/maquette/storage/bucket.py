"""Buckets of callers: objects are put there, and nothing else is asked of them."""

from obstore import put_async
from obstore.store import ObjectStore, from_url

from maquette.storage.object_store import RETRIES, RETRY_FOR, translated


class Bucket:
    """A bucket of somebody else's; the credentials are this server's, and may be good for nothing but putting."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        """Put an object in one request, replacing what was there.

        Raises:
            StorageFailed: the bucket did not take it.
        """
        with translated(None):
            await put_async(self._store, key, data, attributes={"Content-Type": content_type}, use_multipart=False)


def open_bucket(name: str, region: str) -> Bucket:
    """An S3 bucket in a region; credentials, and the endpoint where it is not Amazon's, are from the environment.

    Takes milliseconds, and asks nobody.

    Raises:
        StorageFailed: the environment's words are none that a bucket can be opened with.
    """
    url = f"s3://{name}"
    with translated(None):
        return Bucket(from_url(url, region=region, retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_FOR}))
