"""The border to S3: bounded waits, errors in our own words, links that are signed without a request."""

import base64
import hashlib
import io
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO, cast

import certifi
import urllib3
from minio import Minio
from minio.commonconfig import Tags
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.helpers import check_bucket_name
from minio.sse import SseS3

from shared.errors import AnalyticsError, ObjectStoreRefused, ObjectStoreUnavailable
from shared.settings import ObjectStoreSettings

PART_BYTES = 5 * 1024 * 1024
"""The smallest part S3 takes; with at most 10,000 parts an object may have 48 GiB."""

LONGEST_LINK = timedelta(days=7)
"""The longest life a signature of this kind may have."""

_TRY_LATER = {
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
}
_ABSENT = {"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "ResourceNotFound"}
_NO_ENCRYPTION = {"NotImplemented", "InvalidArgument", "InvalidRequest", "MethodNotAllowed"}


def check_endpoint(endpoint: str) -> None:
    """Raise ValueError where the client would refuse this host or host:port. Asks nobody."""
    try:
        Minio(endpoint)
    except ValueError:
        raise ValueError("is not the host of an S3 server") from None


def check_bucket(name: str) -> None:
    """Raise ValueError where S3 would refuse the name of a bucket. Asks nobody."""
    try:
        check_bucket_name(name, strict=True, s3_check=True)
    except ValueError:
        raise ValueError(
            "is no name of a bucket: 3 to 63 of a-z, 0-9, - and ., a letter or digit at both ends and beside"
            " each dot, not an IP address"
        ) from None


class _DigestingPool(urllib3.PoolManager):
    """Sends the MD5 of what it puts, so that a server that stores other bytes refuses them.

    The client does so over TLS alone. Else it signs the bytes' SHA-256, which not every server looks at.
    """

    def urlopen(self, method: str, url: str, *arguments: Any, **named: Any) -> urllib3.BaseHTTPResponse:
        """Send a request."""
        body = named.get("body")
        if method == "PUT" and isinstance(body, bytes):
            digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            named["headers"] = urllib3.HTTPHeaderDict({"Content-MD5": digest} | dict(named["headers"]))
        return super().urlopen(method, url, *arguments, **named)


@dataclass(frozen=True)
class StoredObject:
    """What the store says of an object. metadata has lower-case keys without the x-amz-meta- prefix."""

    key: str
    size_bytes: int
    content_type: str
    metadata: Mapping[str, str]


class ObjectStore:
    """One bucket. Safe for several threads.

    Every method that asks the server raises ObjectStoreUnavailable when trying again later may help,
    and ObjectStoreRefused when the server says no.
    """

    def __init__(self, settings: ObjectStoreSettings, *, read_timeout_seconds: float = 15) -> None:
        scheme, _, bare = settings.s3_endpoint.rpartition("://")
        # The client's own defaults would wait 300 s and try six times.
        http = _DigestingPool(
            timeout=urllib3.Timeout(connect=3, read=read_timeout_seconds),
            retries=urllib3.Retry(
                total=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], raise_on_status=False
            ),
            maxsize=16,
            cert_reqs="CERT_REQUIRED",
            ca_certs=certifi.where(),
        )
        self._bucket = settings.s3_bucket
        # With a region no request is made to find it out, so signing works while the server is away.
        self._client = Minio(
            bare,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            secure=settings.s3_secure if not scheme else scheme == "https",
            region=settings.s3_region,
            http_client=http,
        )
        self._encrypts: bool | None = None
        self._lock = threading.Lock()

    def ensure_bucket(self) -> None:
        """Create the bucket if it is missing."""
        with _translated(f"bucket {self._bucket}"):
            if self._client.bucket_exists(self._bucket):
                return
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code == "BucketAlreadyOwnedByYou":
                    return
                raise ObjectStoreRefused(
                    "NoSuchBucket",
                    f"bucket {self._bucket} does not exist, and creating it was refused ({error.code})",
                ) from error

    def check(self) -> None:
        """Ask whether the bucket is there. Raises ObjectStoreRefused when it is not."""
        with _translated(f"bucket {self._bucket}"):
            if not self._client.bucket_exists(self._bucket):
                raise ObjectStoreRefused("NoSuchBucket", f"bucket {self._bucket} does not exist")

    def put(self, key: str, source: io.RawIOBase, *, content_type: str, metadata: Mapping[str, str]) -> None:
        """Store a stream of unknown length, in parts, encrypted by the server where it can.

        Holds a few parts in memory whatever the length. An error that the source raises passes on. After
        an error no object exists, unless the server's answer was lost; parts may be left: abort_uploads.
        """
        sse = SseS3() if self._can_encrypt() else None
        with _translated(f"upload of {key}"):
            self._client.put_object(
                self._bucket,
                key,
                cast(BinaryIO, source),
                length=-1,
                part_size=PART_BYTES,
                # One part at a time: a part that fails ends the upload at once.
                num_parallel_uploads=1,
                content_type=content_type,
                metadata=dict(metadata),
                sse=sse,
            )

    def tag(self, key: str, tags: Mapping[str, str]) -> bool:
        """Set an object's tags, which can be done once its content is known. False: the server has none."""
        wanted = Tags(for_object=True)
        wanted.update(tags)
        try:
            with _translated(f"tags of {key}"):
                self._client.set_object_tags(self._bucket, key, wanted)
        except ObjectStoreRefused:
            return False
        return True

    def stat(self, key: str) -> StoredObject | None:
        """Return what is known of an object, None when there is none."""
        try:
            with _translated(f"object {key}"):
                found = self._client.stat_object(self._bucket, key)
        except ObjectStoreRefused as error:
            if error.code in _ABSENT:
                return None
            raise
        prefix = "x-amz-meta-"
        metadata = {
            name.lower().removeprefix(prefix): str(value)
            for name, value in (found.metadata or {}).items()
            if name.lower().startswith(prefix)
        }
        return StoredObject(key, found.size or 0, found.content_type or "", metadata)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys of the objects below a prefix."""
        with _translated(f"objects below {prefix}"):
            for found in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                if found.object_name:
                    yield found.object_name

    def remove(self, key: str) -> None:
        """Remove an object; one that is not there is removed already."""
        with _translated(f"removal of {key}"):
            self._client.remove_object(self._bucket, key)

    def abort_uploads(self, prefix: str) -> int:
        """Remove the parts of uploads below a prefix that were never completed; return how many uploads.

        The client has no public method for these two calls, so this calls private ones:
        tests/unit/test_minio.py fails when they change, and says how to run without them.
        """
        count = 0
        with _translated(f"unfinished uploads below {prefix}"):
            found = self._client._list_multipart_uploads(self._bucket, prefix=prefix)
            for upload in found.uploads:
                self._client._abort_multipart_upload(self._bucket, upload.object_name, upload.upload_id or "")
                count += 1
        return count

    def signed_url(self, key: str, *, expires: timedelta, file_name: str, content_type: str) -> str:
        """Return a link that downloads an object for this long (1 second to LONGEST_LINK). Asks nobody.

        It opens the object to whoever has it: never store or log it.
        """
        return self._client.presigned_get_object(
            self._bucket,
            key,
            expires=expires,
            response_headers={
                "response-content-disposition": f'attachment; filename="{file_name}"',
                "response-content-type": content_type,
            },
        )

    def _can_encrypt(self) -> bool:
        """Find out once, with an empty object, whether the server encrypts when asked to (SSE-S3)."""
        with self._lock:
            if self._encrypts is None:
                self._encrypts = self._try_encryption()
            return self._encrypts

    def _try_encryption(self) -> bool:
        key = f"probes/{secrets.token_hex(8)}"
        try:
            with _translated("test of encryption"):
                self._client.put_object(self._bucket, key, io.BytesIO(b""), 0, sse=SseS3())
        except ObjectStoreRefused as error:
            if error.code not in _NO_ENCRYPTION:
                raise
            return False
        self.remove(key)
        return True


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the client's errors into ours. Messages of the HTTP layer stay out: they may hold whole URLs."""
    try:
        yield
    except S3Error as error:
        if error.code in _TRY_LATER:
            raise ObjectStoreUnavailable(f"{what}: {error.code}") from error
        raise ObjectStoreRefused(str(error.code), f"{what}: {error.message}") from error
    except ServerError as error:
        raise ObjectStoreUnavailable(f"{what}: HTTP status {error.status_code}") from error
    except InvalidResponseError as error:
        raise ObjectStoreUnavailable(f"{what}: an answer that is not S3's") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ObjectStoreUnavailable(f"{what}: {_cause(error)}") from error
    except (MinioException, ValueError) as error:
        raise AnalyticsError(f"{what}: {type(error).__name__}: {error}") from error


def _cause(error: Exception) -> str:
    """Name the innermost reason of a failed request, without its URL."""
    reason = getattr(error, "reason", None) or error
    return type(reason).__name__
