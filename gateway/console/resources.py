"""Serves the console. Its files hold nothing of anybody, so nobody is asked who they are."""

from collections.abc import Mapping
from typing import ClassVar

import falcon

from gateway.access.authorize import PUBLIC
from gateway.console.files import File
from gateway.http.answers import has
from gateway.http.problems import Problem

_SECURITY = {
    # Everything comes from here, and no script or style stands in the page itself.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

_FOREVER = "public, max-age=31536000, immutable"
"""For files whose name is a digest of their content."""


class ConsolePage:
    """GET /analytics/console/"""

    NEEDS: ClassVar = {"GET": PUBLIC}

    def __init__(self, page: File) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the page, which names the files of this build."""
        _send(req, resp, self._page, "no-cache")


class ConsoleAsset:
    """GET /analytics/console/assets/{name}"""

    NEEDS: ClassVar = {"GET": PUBLIC}

    def __init__(self, assets: Mapping[str, File]) -> None:
        self._assets = assets

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Answer with a file of the build."""
        found = self._assets.get(name)
        if found is None:
            raise Problem(404, "The console has no such file; another build may have had it.")
        _send(req, resp, found, _FOREVER)


class ConsoleRedirect:
    """GET /analytics/console: to the page, whose files are named relative to its folder."""

    NEEDS: ClassVar = {"GET": PUBLIC}

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with a redirect that also holds below a prefix that a proxy has taken away."""
        resp.status = 308
        resp.set_header("Location", "console/")


def _send(req: falcon.Request, resp: falcon.Response, file: File, cache_control: str) -> None:
    """Answer 200 with the file as the client takes it, or 304 to one that has it."""
    coding, body = file.choose(req.get_header("Accept-Encoding"))
    etag = file.etag(coding)
    resp.set_headers(_SECURITY)
    resp.set_header("Cache-Control", cache_control)
    resp.set_header("Vary", "Accept-Encoding")
    resp.etag = etag
    if has(req, etag):
        resp.status = 304
        return
    if coding:
        resp.set_header("Content-Encoding", coding)
    resp.content_type = file.content_type
    resp.data = body
