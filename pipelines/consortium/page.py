"""A silo's page on its own loopback: jobs to decide, rounds as they run, budgets, the audit log.

It listens on 127.0.0.1 alone. Other users of the machine, and other pages in the owner's browser,
can reach that address too; against them it has

    a token in the URL       the owner alone is told it; a cookie then takes its place
    a secret path            a browser sends a cookie to every port of a host, but only below its
                             path: another server on this machine does not receive it
    SameSite=Strict          no other site's link or form arrives with the cookie
    a token in both forms    no page of another port can decide a job
    a check of Host          a foreign name that resolves to 127.0.0.1 is refused (DNS rebinding)
    a content policy         no script runs, no other file is loaded, no page may frame this one
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from blindsum.actors.separate.inbox import Inbox
from blindsum.pipelines.consortium.deciding import approve_proposal, refuse_proposal
from blindsum.pipelines.consortium.overview import overview
from blindsum.pipelines.consortium.page_content import (
    MOST_DAYS,
    job_page,
    message_page,
    overview_page,
)
from blindsum.pipelines.consortium.review import review
from blindsum.platform.errors import BlindsumError, ClusterError, JobError, without_values
from blindsum.platform.job.owner import Owner
from blindsum.platform.state.approval import MOST_RUNS

HOST = "127.0.0.1"
COOKIE = "blindsum"
MOST_FORM = 4096
"""The greatest size of a form in bytes."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LOCAL = (HOST, "localhost")
_STOP_S = 10.0


class Page:
    """A silo's page, served by a thread of this process.

    Attributes:
        url: its address, with the token. Whoever has it can approve jobs.

    Raises:
        ClusterError: the port cannot be listened on.
    """

    def __init__(self, owner: Owner, silo: str, inbox: Inbox, port: int = 0) -> None:
        desk = _Desk(owner, silo, inbox)
        self._socket = _listening(port)
        config = uvicorn.Config(
            desk.app,
            log_config=None,
            log_level="critical",
            access_log=False,  # it would name the token
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}/?token={desk.token}"
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(_STOP_S)
        self._socket.close()


def serve_page(owner: Owner, silo: str, inbox: Inbox, port: int = 0) -> Page:
    """Serve a silo's page in a thread of this process.

    Args:
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        ClusterError: the port cannot be listened on.
    """
    return Page(owner, silo, inbox, port)


def _listening(port: int) -> socket.socket:
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(64)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ClusterError(
            f"the page cannot listen on {HOST}:{port} ({error})",
            "Choose another port, or 0 for any free one.",
        ) from None
    return listening


class _Desk:
    """Answers requests. All work is done in the server's one thread, one request at a time."""

    def __init__(self, owner: Owner, silo: str, inbox: Inbox) -> None:
        self._owner, self._silo, self._inbox = owner, silo, inbox
        self.token, self._session, self._csrf, place = (secrets.token_urlsafe(32) for _ in range(4))
        self._top = f"/{place}"
        job = f"{self._top}/jobs/{{digest}}"
        self.app = Starlette(
            routes=[
                Route(f"{self._top}/", self._show_overview),
                Route(job, self._show_job),
                Route(f"{job}/approve", self._approve, methods=["POST"]),
                Route(f"{job}/refuse", self._refuse, methods=["POST"]),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guard)],
        )

    async def _guard(
        self, request: Request, go_on: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Let only the owner's own requests through, and set the headers of every answer."""
        try:
            answer = self._admitted(request) or await go_on(request)
        except _Refusal as error:
            answer = self._message(error.status, "Refused", str(error), back=True)
        except BlindsumError as error:
            answer = self._message(409, "That was not possible", str(error), back=True)
        except Exception as error:  # noqa: BLE001 - its text may quote private values
            answer = self._message(500, "That failed", str(without_values(error)), back=True)
        for name, value in HEADERS.items():
            answer.headers[name] = value
        return answer

    def _admitted(self, request: Request) -> Response | None:
        """Return None for a request with the session's cookie, and otherwise its answer."""
        if not _is_local(request.headers.getlist("host")):
            return self._message(403, "Refused", "This page has another address.")
        if _same(request.cookies.get(COOKIE, ""), self._session):
            return None
        if request.url.path == "/" and _same(request.query_params.get("token", ""), self.token):
            answer = RedirectResponse(f"{self._top}/", 303)
            answer.set_cookie(
                COOKIE, self._session, path=self._top, httponly=True, samesite="strict"
            )
            return answer
        told = "Open the address that the agent printed, with its token."
        return self._message(403, "Refused", told)

    async def _show_overview(self, request: Request) -> Response:
        started = time.perf_counter()
        shown = overview(self._owner, self._silo, self._inbox)
        return HTMLResponse(overview_page(shown, time.perf_counter() - started))

    async def _show_job(self, request: Request) -> Response:
        found = review(self._owner, self._silo, self._inbox, request.path_params["digest"])
        return HTMLResponse(job_page(found, self._csrf))

    async def _approve(self, request: Request) -> Response:
        form = await self._form(request)
        runs, days = _whole(form, "runs", MOST_RUNS), _whole(form, "days", MOST_DAYS)
        digest = request.path_params["digest"]
        until = time.time() + days * 86_400
        approve_proposal(self._owner, self._silo, self._inbox, digest, runs, until)
        return RedirectResponse(f"{self._top}/", 303)

    async def _refuse(self, request: Request) -> Response:
        form = await self._form(request)
        refuse_proposal(self._inbox, request.path_params["digest"], form.get("reason", ""))
        return RedirectResponse(f"{self._top}/", 303)

    async def _form(self, request: Request) -> dict[str, str]:
        """Return the fields of a form that this page made."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_FORM:
                raise _Refusal(413, "The form is too long.")
        try:
            read = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
        except ValueError:
            raise _Refusal(400, "The form cannot be read.") from None
        form = {name: values[0] for name, values in read.items()}
        if not _same(form.get("csrf", ""), self._csrf):
            raise _Refusal(403, "The form did not come from this page. Load the job again.")
        return form

    def _message(self, status: int, title: str, text: str, back: bool = False) -> Response:
        return HTMLResponse(message_page(title, text, f"{self._top}/" if back else ""), status)


class _Refusal(Exception):
    """A form that is refused, with the answer's status."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


def _whole(form: dict[str, str], name: str, most: int) -> int:
    """Return a whole number from a form, from 1 to `most`."""
    text = form.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise JobError(f"{name} is {text[:20]!r}", f"Write a whole number from 1 to {most}.")
    return int(text)


def _is_local(hosts: list[str]) -> bool:
    """Return whether a request names this machine's loopback. A port is not compared: a tunnel
    (ssh -L) may have another."""
    return len(hosts) == 1 and hosts[0].partition(":")[0] in _LOCAL


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(), secret.encode())
