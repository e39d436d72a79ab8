"""The logins that deploy/logins.sql makes, for a test's own database."""

import subprocess
from contextlib import closing
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from deploy.local.checkout import ROOT
from deploy.local.machine import postgres_folder
from tests.support.places import TestDatabase


def make_logins(database: TestDatabase) -> dict[str, str]:
    """Run deploy/logins.sql with the passwords that the processes' logins have already; return all URLs."""
    urls = {name.removesuffix("_DATABASE_URL").lower(): url for name, url in database.process_urls.items()}
    passwords = {name: urlsplit(url).password or "" for name, url in urls.items()}
    watchers = {"scaler": "for-the-tests", "grafana": "for-the-tests"}
    options = [f"--set={name}={password}" for name, password in (passwords | watchers).items()]
    script = ROOT / "deploy/logins.sql"
    server = urlsplit(database.owner_url)._replace(path="/postgres").geturl()
    with closing(psycopg2.connect(server)) as turn, turn.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(hashtext('logins'))")  # tests share the roles
        subprocess.run(
            [str(postgres_folder() / "psql"), database.owner_url, *options, f"--file={script}"],
            check=True,
            timeout=30,
        )
    place = urlsplit(urls["gateway"])
    for name, password in watchers.items():
        netloc = f"{name}:{password}@{place.hostname}:{place.port}"
        urls[name] = urlunsplit(place._replace(netloc=netloc))
    return urls
