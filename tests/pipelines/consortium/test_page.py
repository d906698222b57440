"""The silo's page over real HTTP: what it shows, what it lets the owner do, and nobody else."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from blindsum.actors.books import AUDIT_LOG
from blindsum.actors.separate.agent import status_file
from blindsum.pipelines.consortium.overview import overview
from blindsum.pipelines.consortium.page import COOKIE, MOST_FORM, Page, serve_page
from blindsum.pipelines.consortium.page_content import LIVE_S, overview_page
from blindsum.pipelines.consortium.progress import rounds_of
from blindsum.platform.errors import ClusterError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.lifetime_limit import Limit
from blindsum.platform.state.approval import Approvals, job_digest
from blindsum.platform.state.audit_log import AuditLog, Event
from tests.actors.separate.organisations import until
from tests.conftest import job_content, ledger_of
from tests.pipelines.consortium.proposals import Desk, proposed


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


class Browser:
    """A browser that keeps the page's cookie and follows its redirects."""

    def __init__(self, url: str) -> None:
        self.at = urlsplit(url)
        self.cookie = ""
        answer = self.ask("GET", f"{self.at.path}?{self.at.query}")
        assert answer.status == 303 and not answer.text
        self.set = answer.headers["set-cookie"]
        self.cookie = self.set.partition(";")[0]
        self.top = answer.headers["location"]

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.at.hostname or "", self.at.port, timeout=60)
        sent = {"Host": self.at.netloc, "Cookie": self.cookie} | headers
        try:
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, text)

    def get(self, path: str = "", **headers: str) -> Answer:
        return self.ask("GET", f"{self.top}{path}", **headers)

    def post(self, path: str, **fields: object) -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", f"{self.top}{path}", urlencode(fields).encode(), **kind)

    def csrf(self, digest: str) -> str:
        found = re.search(r'name=csrf value="([^"]+)"', self.get(f"jobs/{digest}").text)
        assert found
        return found[1]


@pytest.fixture
def page(desk: Desk) -> Iterator[Page]:
    made = serve_page(desk.owner, "alder", desk.inbox)
    yield made
    made.close()


@pytest.fixture
def browser(page: Page) -> Browser:
    return Browser(page.url)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return proposed(job_content(tmp_path))


def audit_log(desk: Desk, now: float = 1e9) -> AuditLog:
    clock = iter(range(10_000))
    return AuditLog(
        desk.owner.state / AUDIT_LOG,
        "alder",
        desk.organisation.identity,
        lambda: now + next(clock),
    )


def test_the_owner_approves_and_refuses_and_the_coordinator_learns_it(
    desk: Desk, browser: Browser, job: Job
) -> None:
    organisation, registry = desk.organisation, desk.coordinator.registry
    organisation.start()
    try:
        other = job.model_copy(update={"name": "other"})
        digests = [desk.coordinator.propose(one) for one in (job, other)]
        until(lambda: len(desk.inbox.all()) == 2)
        first = browser.get().text
        assert all(f'href="jobs/{digest}"' in first for digest in digests)
        assert "connected to the coordinator since" in first
        csrf = browser.csrf(digests[0])
        done = browser.post(f"jobs/{digests[0]}/approve", csrf=csrf, runs=2, days=7)
        assert (done.status, done.headers["location"]) == (303, browser.top)
        refused = browser.post(f"jobs/{digests[1]}/refuse", csrf=csrf, reason="not this year")
        assert refused.status == 303
        until(lambda: "alder" in registry.decisions(digests[1]))
        until(lambda: registry.decisions(digests[0])["alder"].verdict == "approved")
        until(lambda: registry.decisions(digests[1])["alder"].reason == "not this year")
    finally:
        organisation.stop()
    books = ledger_of(desk.owner.state, "alder")
    (given,) = Approvals(books).all()
    books.close()
    assert given.job == job_digest(job) and given.runs == 2
    shown = browser.get().text
    assert "No job waits for you." in shown and "refused: not this year" in shown


def test_nobody_else_is_let_in(page: Page, desk: Desk, job: Job) -> None:
    digest = desk.receive(job)
    browser = Browser(page.url)
    assert "httponly" in browser.set.lower() and "samesite=strict" in browser.set.lower()
    assert f"Path={browser.top.rstrip('/')};" in browser.set and len(browser.top) > 40
    for cookie in ("", f"{COOKIE}=", f"{COOKIE}=x", browser.cookie + "x", f"{COOKIE}=\u00e9"):
        assert browser.get(Cookie=cookie.encode().decode("latin-1")).status == 403
    for path in ("/", "/?token=", "/?token=x", "/?token=%C3%A9", "/jobs", "/favicon.ico"):
        answer = browser.ask("GET", path, Cookie="")
        assert answer.status == 403 and digest not in answer.text, path
    assert browser.ask("GET", f"{browser.top}?{urlsplit(page.url).query}", Cookie="").status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:1", ""]
)
def test_another_host_is_refused_even_with_cookie_and_token(page: Page, host: str) -> None:
    browser = Browser(page.url)
    assert browser.get(Host=host).status == 403
    token = f"/?{urlsplit(page.url).query}"
    answer = browser.ask("GET", token, Host=host, Cookie="")
    assert answer.status == 403 and "set-cookie" not in answer.headers


def test_a_tunnel_may_have_another_port(browser: Browser) -> None:
    for host in ("localhost:8080", "127.0.0.1:9", "localhost"):
        assert browser.get(Host=host).status == 200


def test_a_form_counts_only_with_its_token_and_in_bounds(
    desk: Desk, browser: Browser, job: Job
) -> None:
    digest = desk.receive(job)
    csrf = browser.csrf(digest)
    for action, fields in (("approve", {"runs": 1, "days": 1}), ("refuse", {"reason": "no"})):
        where = f"jobs/{digest}/{action}"
        assert browser.post(where, **fields).status == 403
        assert browser.post(where, csrf="x", **fields).status == 403
        assert browser.ask("POST", f"{browser.top}{where}", Cookie="").status == 403
        assert browser.get(where).status == 405
    where = f"jobs/{digest}/approve"
    for wrong in ({"runs": 0, "days": 1}, {"runs": 1, "days": 10**9}, {"runs": "²", "days": 1}, {}):
        assert browser.post(where, csrf=csrf, **wrong).status == 409
    assert browser.post(f"jobs/{digest}/refuse", csrf=csrf, reason=" ").status == 409
    assert browser.post(f"jobs/{digest}/refuse", csrf=csrf, reason="x" * MOST_FORM).status == 413
    assert browser.ask("POST", f"{browser.top}{where}", b"runs=\xff").status == 403
    many = "&".join("a=1" for _ in range(20))
    assert browser.ask("POST", f"{browser.top}{where}", many.encode()).status == 400
    assert browser.get(f"jobs/{'0' * 64}").status == 409
    assert desk.inbox.one(digest).verdict == "pending"


def test_what_a_job_says_is_escaped(desk: Desk, browser: Browser, tmp_path: Path) -> None:
    script = "<script>alert('x')</script>"
    content = job_content(tmp_path)
    data = content["data"] | {"target": {"column": script, "classes": ["\"'><b>", "\u202eb"]}}
    job = proposed(content, data=data, tracking={"experiment": script})
    digest = desk.receive(job)
    desk.inbox.decide(digest, "refused", script)
    log = audit_log(desk)
    log.note("refused", "run-1", error="DataError", said=script)
    log.close()
    status_file(desk.owner.state).write_text(json.dumps({"connected": False, "why": script}))
    for answer in (browser.get(), browser.get(f"jobs/{digest}"), browser.get("jobs/%3Cscript%3E")):
        assert "<script" not in answer.text and "<b>" not in answer.text
        assert "\u202e" not in answer.text
    assert "&lt;script&gt;" in browser.get(f"jobs/{digest}").text
    assert browser.get().text.count("&lt;script&gt;") >= 3


def test_a_job_is_drawn_with_this_silos_plan_beside_the_decision(
    desk: Desk, browser: Browser, job: Job
) -> None:
    shown = browser.get(f"jobs/{desk.receive(job)}").text
    picture = shown[shown.index("<pre>") : shown.index("</pre>")]
    assert "trial: 3 silos train one model together" in picture
    assert "coordinator gets" in picture and "4 columns: mean_radius" in picture
    assert "alder: " in picture and "3.000 of 3 by round 3" in picture
    assert "birch: " not in picture and "over all rounds and silos: " in picture


def test_every_answer_has_a_policy_without_scripts(desk: Desk, browser: Browser, job: Job) -> None:
    digest = desk.receive(job)
    answers = (browser.get(), browser.get(f"jobs/{digest}"), browser.get("nothing"))
    assert [one.status for one in answers] == [200, 200, 404]
    for answer in (*answers, browser.ask("GET", "/", Cookie="")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; form-action")
        assert "frame-ancestors 'none'" in policy and "script" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", answer.text)
    assert "refresh" in answers[0].text and "refresh" not in answers[1].text


def test_the_page_lists_rounds_budgets_and_the_log(desk: Desk, browser: Browser, job: Job) -> None:
    assert "No run has begun" in browser.get().text
    books = ledger_of(desk.owner.state, "alder")
    books.set_limit(Limit(4.0, 1e-5))
    books.close()
    digest = desk.receive(job)
    desk.inbox.decide(digest, "approved")
    log = audit_log(desk)
    log.note("inspected", "trial-1", job_digest=job_digest(job))
    log.note("joined", "trial-1", job_digest=job_digest(job), roster=["alder", "birch"])
    for round, epsilon in ((1, 1.25), (2, 2.0)):
        log.note("charged", "trial-1", round, 1, epsilon=epsilon)
        log.note("sent", "trial-1", round, 1, purpose="update", roster=["alder", "birch"])
        if round == 1:
            log.note("sent", "trial-1", round, 1, purpose="metrics", roster=["alder", "birch"])
    log.close()
    status = {"connected": True, "since": 1e9, "run": "trial-1"}
    status_file(desk.owner.state).write_text(json.dumps(status))
    shown = browser.get().text
    again = re.search(r'"refresh" content="(\d+)"', shown)
    assert again and int(again[1]) >= LIVE_S and "running" in shown
    assert "1 of 3 rounds completed, epsilon 2 spent in this job" in shown
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown)
    assert cells[:6] == ["2", "1", "01:46:45", "1.0 s", "2", "update sent"]
    assert cells[6:12] == ["1", "1", "01:46:42", "2.0 s", "1.25", "completed"]
    assert "4 of 4 left" in shown and "update, to be added over 2 silos" in shown
    status_file(desk.owner.state).write_text(json.dumps(status | {"run": ""}))
    found = overview(desk.owner, "alder", desk.inbox)
    assert 'content="200"' in overview_page(
        found, took_s=10.0
    )  # a long log is not read all the time
    ended = found.run
    assert ended is not None and (ended.name, ended.live) == ("trial-1", False)


def test_an_attempt_that_another_one_followed_has_failed() -> None:
    def event(kind: Any, round: int, attempt: int, **detail: object) -> Event:
        return Event(kind, 0.0, "run", "alder", round, attempt, detail)

    found = rounds_of(
        [
            event("joined", 0, 0),
            event("charged", 1, 1, epsilon=None),
            event("charged", 1, 2, epsilon=None),
            event("sent", 1, 2, purpose="update"),
            event("refused", 1, 2),
        ]
    )
    assert [(one.round, one.attempt, one.step) for one in found] == [
        (1, 1, "failed"),
        (1, 2, "update sent"),
    ]


def test_the_page_listens_on_loopback_alone_and_ends(desk: Desk) -> None:
    page = serve_page(desk.owner, "alder", desk.inbox)
    at = urlsplit(page.url)
    assert at.hostname == "127.0.0.1" and at.port
    with pytest.raises(ClusterError, match="cannot listen on 127.0.0.1"):
        serve_page(desk.owner, "alder", desk.inbox, at.port)
    page.close()
    again = serve_page(desk.owner, "alder", desk.inbox, at.port)
    again.close()
