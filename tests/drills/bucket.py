"""The bucket of a drill, past the proxy: what is in it, and how it is taken away and given back."""

import gzip
import io
from collections.abc import Mapping

from minio import Minio


class Bucket:
    """The objects of a bucket. For one thread at a time."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._name = settings["S3_BUCKET"]
        self._client = Minio(
            settings["S3_ENDPOINT"],
            access_key=settings["S3_ACCESS_KEY"],
            secret_key=settings["S3_SECRET_KEY"],
            secure=settings["S3_SECURE"] == "true",
            region="us-east-1",
        )
        self._read: dict[tuple[str, str], bytes] = {}
        self._taken: dict[str, bytes] = {}

    def files(self) -> dict[str, bytes]:
        """Return what is in the files by their keys. An object that has not changed is not read again."""
        return {
            key: gzip.decompress(data) if key.endswith(".gz") else data
            for key, data in self._objects().items()
            if not key.startswith("probes/")
        }

    def take_away(self) -> None:
        """Take all objects into memory and remove the bucket. Nobody may write to it meanwhile."""
        self._taken = self._objects()
        for key in self._taken:
            self._client.remove_object(self._name, key)
        self._client.remove_bucket(self._name)

    def give_back(self) -> list[str]:
        """Make the bucket again if nobody has, and put the objects back; return their keys."""
        if not self._client.bucket_exists(self._name):
            self._client.make_bucket(self._name)
        for key, data in self._taken.items():
            self._client.put_object(self._name, key, io.BytesIO(data), len(data))
        keys = list(self._taken)
        self._taken = {}
        return keys

    def remove(self, key: str) -> None:
        """Remove an object."""
        self._client.remove_object(self._name, key)

    def _objects(self) -> dict[str, bytes]:
        read = {}
        for found in self._client.list_objects(self._name, recursive=True):
            key, etag = str(found.object_name), str(found.etag)
            read[key, etag] = self._read[key, etag] if (key, etag) in self._read else self._get(key)
        self._read = read
        return {key: data for (key, _), data in read.items()}

    def _get(self, key: str) -> bytes:
        answer = self._client.get_object(self._name, key)
        try:
            return bytes(answer.read())
        finally:
            answer.release_conn()
