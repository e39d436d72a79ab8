"""Faults of what Redis and S3 keep: corrupt and flushed values, refusals, corrupt bytes, no bucket."""

import time
from functools import partial

import redis

from deploy.local.traffic import org
from tests.drills.database_faults import again_and_again
from tests.drills.fault import Fault, MetNothing, nothing, release
from tests.drills.scene import Scene

_GARBAGE = (b"\xff\x00{", b'{"org_id": "', b"[" * 5000, b"null", b'{"org_id":1}', b"")

_LEFT = """
    SELECT key FROM unnest(%(keys)s::text[]) AS key
    JOIN analytics.export_jobs ON job_id::text = split_part(key, '/', 2)
    WHERE completed_at IS NOT NULL AND object_key IS DISTINCT FROM key"""


def _corrupt(name: str, scene: Scene) -> None:
    """Put garbage in place of every value again and again, one of another type among them."""
    scene.marks[name] = 0
    round_ = 0

    def work() -> None:
        nonlocal round_
        with redis.Redis.from_url(scene.redis_url, socket_timeout=2) as client:
            for key in client.scan_iter("analytics:*"):
                round_ += 1
                client.delete(key)
                garbage = _GARBAGE[round_ % len(_GARBAGE)]
                if garbage:
                    client.set(key, garbage, px=5_000)
                else:
                    client.lpush(key, b"a list")
                    client.pexpire(key, 5_000)
                scene.marks[name] += 1

    again_and_again(name, 0.2, work, scene)


def _no_more(name: str, scene: Scene) -> None:
    release(name, scene)
    if not scene.marks.pop(name, 0):
        raise MetNothing("nothing was cached")


def _flush(scene: Scene) -> None:
    with redis.Redis.from_url(scene.redis_url, socket_timeout=2) as client:
        if not client.dbsize():
            raise MetNothing("nothing was cached")
        client.flushall()


def _change_requests(change: tuple[bytes, bytes] | None, scene: Scene) -> None:
    scene.proxies["s3"].in_requests = change


def _change_replies(change: tuple[bytes, bytes] | None, scene: Scene) -> None:
    scene.proxies["s3"].in_replies = change


def _refuse(scene: Scene) -> None:
    """Let S3 see a key that it does not know: it answers each request with 403."""
    key = scene.store_settings["S3_ACCESS_KEY"]
    _change_requests((key.encode(), key[::-1].encode()), scene)


def _cut_upload(size_bytes: int | None, scene: Scene) -> None:
    scene.proxies["s3"].cut_requests_after(size_bytes)


def _take_bucket(scene: Scene) -> None:
    """Take every object out of the bucket and remove it; whoever needs it finds none."""
    proxy = scene.proxies["s3"]
    proxy.mode = "refuse"
    proxy.reset_connections()
    time.sleep(0.3)  # for what S3 has in hand
    scene.bucket.take_away()
    proxy.mode = "pass"


def _give_bucket_back(scene: Scene) -> None:
    """Put the objects back, but not what lost attempts of jobs left that have ended meanwhile.

    The export worker has looked for those already, and does not expect that somebody brings them back.
    """
    scene.proxies["s3"].mode = "pass"
    keys = scene.bucket.give_back()
    with scene.owner() as owner, owner.cursor() as cur:
        cur.execute(_LEFT, {"keys": keys})
        for (key,) in cur.fetchall():
            scene.bucket.remove(key)


def store_faults() -> list[Fault]:
    """Return them all."""
    corrupt = "redis.corrupt"
    of_s3 = "I4 I5 I7"
    line = f":00Z,{org(0)},".encode()  # in lines of files, and in no header
    wrong = line[:-2] + b"f,"
    return [
        Fault(corrupt, partial(_corrupt, corrupt), partial(_no_more, corrupt), "I6 I7", (3, 8)),
        Fault("redis.flush", _flush, nothing, "I7", (0.1, 0.5)),
        Fault("s3.refused", _refuse, partial(_change_requests, None), of_s3, (3, 8)),
        Fault(
            "s3.corrupt_upload",
            partial(_change_requests, (line, wrong)),
            partial(_change_requests, None),
            of_s3,
            (4, 8),
        ),
        Fault(
            "s3.corrupt_download",
            partial(_change_replies, (line, wrong)),
            partial(_change_replies, None),
            "I4",
            (4, 8),
        ),
        Fault("s3.cut_upload", partial(_cut_upload, 3_000), partial(_cut_upload, None), of_s3, (3, 6)),
        Fault("s3.no_bucket", _take_bucket, _give_bucket_back, of_s3, (2, 6), 1),
    ]
