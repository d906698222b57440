"""The HTML of a silo's page: no script, no other file, and every text from a job is escaped."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blindsum.actors.separate.inbox import Received
from blindsum.pipelines.consortium.budget import Budget
from blindsum.pipelines.consortium.overview import Overview, RunShown
from blindsum.pipelines.consortium.review_text import (
    Part,
    Review,
    decision,
    epsilon_line,
    when,
)
from blindsum.pipelines.run.job_picture import JobPicture, Messages
from blindsum.pipelines.run.job_words import model_line
from blindsum.pipelines.show.console import plain
from blindsum.platform.state.approval import DEFAULT_DAYS, MOST_RUNS
from blindsum.platform.state.audit_log import Event

LIVE_S, IDLE_S = 3, 15
"""How soon the page is loaded again, in seconds: while a run goes on, and otherwise."""
MOST_DAYS = 365
MOST_REASON = 500
_ROUNDS = 12
_PAUSE = 20
_PICTURE = 80
"""Columns of a job's picture: as many fit beside the form."""
_WARNINGS = ("The owner's file refuses it", "A run would fail at this silo")


def overview_page(shown: Overview, took_s: float = 0.0) -> str:
    """Return the first page.

    Args:
        took_s: how long it took to read what is shown. Long logs take longer; loading the page
            again must not keep a processor busy.
    """
    seconds = LIVE_S if shown.run and shown.run.live else IDLE_S
    seconds = max(seconds, math.ceil(_PAUSE * took_s))
    parts = [
        f"<header><h1>Silo {_text(shown.silo)}</h1>{_status(shown.status)}</header>",
        "<h2>Jobs to decide</h2>",
        *(map(_card, shown.pending) if shown.pending else [_quiet("No job waits for you.")]),
        "<h2>Rounds</h2>",
        _run(shown.run) if shown.run else _quiet("No run has begun at this silo."),
        "<h2>Budget of each dataset, over all jobs</h2>",
        f"<div class=card>{''.join(map(_budget, shown.budgets))}</div>",
        "<h2>Decided jobs</h2>",
        _decided(shown.decided) if shown.decided else _quiet("None yet."),
        "<h2>Audit log, newest first</h2>",
        _audit(shown.events) if shown.events else _quiet("It has no entry yet."),
    ]
    return _page(f"Silo {shown.silo}", "\n".join(parts), seconds)


def job_page(review: Review, csrf: str) -> str:
    """Return the page on which a job is read and decided. It is never loaded again by itself, so
    that nothing that is being typed is lost."""
    one = review.received
    facts = (
        ("Trains", model_line(review.job, review.parameters, review.frozen)),
        ("Spends", epsilon_line(review)),
        ("Left", _left(review.budget)),
        ("With", f"{len(review.job.silos)} silos, {review.rounds} rounds"),
    )
    told = "".join(f"<div><dt>{a}</dt><dd>{_text(b)}</dd></div>" for a, b in facts)
    said = f"{decision(one)}; received {when(one.at)} UTC"
    digests = (
        f"Proposal <code>{one.digest}</code><br>Job <code>{review.job_digest}</code><br>"
        f"Job file and code: <code>{_text(str(review.folder))}</code>"
    )
    parts = [
        f"<header><h1>Job {_text(one.name)}</h1>{_quiet(said)}</header>",
        f"<dl class=facts>{told}</dl>",
        "<div class=sides><main>",
        _at_a_glance(review),
        *map(_part, review.parts),
        "</main><aside>",
        _decide(review, csrf),
        '<p><a href="..">Back to the overview</a></p></aside></div>',
        f"<p class=quiet>{digests}</p>",
    ]
    return _page(f"Job {one.name}", "\n".join(parts))


def _at_a_glance(review: Review) -> str:
    """Return the picture that `blindsum check` shows, with this silo's plan."""
    job, sent, messages = review.job, review.traffic, None
    if sent:
        times = review.rounds * len(job.silos)
        messages = Messages(
            up=sent.up, down=sent.down, whole_up=times * sent.up, whole_down=times * sent.down
        )
    picture = JobPicture(
        job=job,
        parameters=review.parameters,
        frozen=review.frozen,
        plans={review.silo: review.plan} if review.plan else {},
        rounds=review.rounds,
        messages=messages,
        hub="coordinator",
    )
    drawn = html.escape(picture.as_text(_PICTURE))
    return f"<section class=card><h2>At a glance</h2><pre>{drawn}</pre></section>"


def message_page(title: str, text: str, back: str = "") -> str:
    """Return a page with one message, and a link back if there is an address for it."""
    link = f'<p><a href="{_text(back)}">Back</a></p>' if back else ""
    return _page(title, f"<h1>{_text(title)}</h1><p>{_text(text)}</p>{link}")


def _status(status: Mapping[str, Any]) -> str:
    connected = status.get("connected") is True
    if connected:
        since = _time(status.get("since"))
        said = f"connected to the coordinator{f' since {since} UTC' if since else ''}"
    else:
        why = plain(str(status.get("why") or "the agent has not reported"))
        said = f"not connected: {why}"
    dot = "good" if connected else "bad"
    return f'<p class=quiet><span class="dot {dot}"></span> {_text(said)}</p>'


def _card(one: Received) -> str:
    return (
        f"<div class=card><div class=row><div><strong>{_text(one.name)}</strong>"
        f"<br><span class=quiet>received {when(one.at)} UTC, proposal {one.digest[:8]}</span></div>"
        f'<a class=button href="jobs/{one.digest}">Read and decide</a></div></div>'
    )


def _run(run: RunShown) -> str:
    done = len({one.round for one in run.attempts if one.step == "completed"})
    of = f" of {run.rounds}" if run.rounds else ""
    epsilon = next((one.epsilon for one in reversed(run.attempts) if one.epsilon is not None), None)
    spent = f", epsilon {epsilon:.4g} spent in this job" if epsilon is not None else ""
    head = (
        f"<div class=row><strong>{_text(run.name)}</strong>"
        f'<span class="tag {"live" if run.live else ""}">{"running" if run.live else "ended"}'
        f"</span></div><p class=quiet>{done}{of} rounds completed{spent}</p>"
    )
    bar = _bar(done / run.rounds, "work") if run.rounds else ""
    rows = [
        (
            str(one.round),
            str(one.attempt),
            _time(one.began, "%H:%M:%S"),
            f"{one.last - one.began:.1f} s",
            "none" if one.epsilon is None else f"{one.epsilon:.4g}",
            one.step,
        )
        for one in reversed(run.attempts[-_ROUNDS:])
    ]
    headings = ("round", "attempt", "began (UTC)", "took", "epsilon so far", "state")
    return f"<div class=card>{head}{bar}{_table(headings, rows) if rows else ''}</div>"


def _budget(one: Budget) -> str:
    name = f"<strong>{_text(one.dataset)}</strong>"
    if one.limit is None:
        return f"<div class=budget>{name} <span class=quiet>{_text(one.line)}</span></div>"
    share = one.spent / one.limit if math.isfinite(one.spent) else 1.0
    kind = "bad" if share > 0.9 else "spent"
    return (
        f"<div class=budget><div class=row>{name}<span>{one.left:.4g} of {one.limit:g} left</span>"
        f"</div>{_bar(share, kind)}<span class=quiet>{_text(one.past)}</span></div>"
    )


def _left(budget: Budget | None) -> str:
    if budget is None:
        return "this silo has no such dataset"
    if budget.left is None:
        return "no lifetime limit"
    return f"epsilon {budget.left:.4g} of {budget.limit:g} for {budget.dataset}"


def _decided(decided: Sequence[Received]) -> str:
    rows = [(one.name, when(one.at), decision(one)) for one in decided]
    links = [f"jobs/{one.digest}" for one in decided]
    return f"<div class=card>{_table(('job', 'received (UTC)', 'decision'), rows, links)}</div>"


def _audit(events: Iterable[Event]) -> str:
    rows = [
        (
            _time(one.time, "%Y-%m-%d %H:%M:%S"),
            one.job,
            f"{one.round}, attempt {one.attempt}" if one.round else "",
            one.kind,
            _detail(one),
        )
        for one in events
    ]
    headings = ("time (UTC)", "run", "round", "event", "")
    return f"<div class=card>{_table(headings, rows)}</div>"


def _detail(event: Event) -> str:
    detail = event.detail
    if event.kind == "charged" and detail.get("epsilon") is not None:
        return f"epsilon {detail['epsilon']:.4g} so far"
    if event.kind == "sent":
        return f"{detail.get('purpose')}, to be added over {len(detail.get('roster') or ())} silos"
    if event.kind == "joined":
        return f"with {', '.join(detail.get('roster') or ())}"
    return str(detail.get("said", ""))


def _part(part: Part) -> str:
    kind = ' class="card warn"' if part.heading in _WARNINGS else " class=card"
    if any(label for label, _ in part.rows):
        rows = "".join(f"<dt>{_text(a)}</dt><dd>{_text(b)}</dd>" for a, b in part.rows)
        content = f"<dl>{rows}</dl>"
    else:
        content = "".join(f"<p>{_text(text)}</p>" for _, text in part.rows)
    return f"<section{kind}><h2>{_text(part.heading)}</h2>{content}</section>"


def _decide(review: Review, csrf: str) -> str:
    one = review.received
    token = f'<input type=hidden name=csrf value="{_text(csrf)}">'
    if review.policy:
        approve = _quiet("It cannot be approved: the owner's file refuses it.")
    elif not one.open:
        approve = _quiet("It cannot be approved: the coordinator no longer proposes it.")
    else:
        code = " and the code of its model" if review.code else ""
        approve = (
            f'<form method=post action="{one.digest}/approve">{token}<h2>Approve</h2>'
            f"<p class=quiet>This allows the job with exactly these settings{code}. A change needs "
            "a new approval.</p>"
            f"<label>Runs<input type=number name=runs value=1 min=1 max={MOST_RUNS} required>"
            f"</label><label>Valid for days<input type=number name=days value={DEFAULT_DAYS} min=1 "
            f"max={MOST_DAYS} required></label>"
            "<button class=button>Approve</button></form>"
        )
    refuse = (
        f'<form method=post action="{one.digest}/refuse">{token}<h2>Refuse</h2>'
        f"<label>Reason, for the coordinator<textarea name=reason rows=3 maxlength={MOST_REASON} "
        "required></textarea></label><button class=plain>Refuse</button></form>"
    )
    return f"<div class=card>{approve}</div><div class=card>{refuse}</div>"


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], links: Sequence[str] = ()
) -> str:
    """Return a table; with an address for each row, its first cell leads there. On a narrow screen
    a row becomes a few lines, with the headings inside."""
    head = "".join(f"<th>{one}</th>" for one in headings)
    body = ""
    for i, row in enumerate(rows):
        cells = [_text(one) for one in row]
        if links:
            cells[0] = f'<a href="{links[i]}">{cells[0]}</a>'
        named = zip(headings, cells, strict=True)
        row_html = "".join(f'<td data-of="{heading}">{cell}</td>' for heading, cell in named)
        body += f"<tr>{row_html}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _bar(share: float, kind: str) -> str:
    width = 100 * min(max(share, 0.0), 1.0)
    return f'<div class=bar><div class={kind} style="width:{width:.1f}%"></div></div>'


def _quiet(text: str) -> str:
    return f"<p class=quiet>{_text(text)}</p>"


def _time(value: object, form: str = "%Y-%m-%d %H:%M") -> str:
    return time.strftime(form, time.gmtime(value)) if isinstance(value, int | float) else ""


def _text(text: str) -> str:
    return html.escape(plain(text))


def _page(title: str, body: str, again_s: int | None = None) -> str:
    again = f'<meta http-equiv="refresh" content="{again_s}">' if again_s else ""
    return _PAGE.format(title=_text(title), body=body, again=again)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{again}
<title>{title}</title>
<style>
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1rem;
  color: #1b1f24; background: #f6f8fa; overflow-wrap: break-word; }}
h1 {{ margin: .5rem 0 0; font-size: 1.6rem; }} h2 {{ margin: 1.8rem 0 .5rem; font-size: 1.05rem; }}
a {{ color: #2c6fbb; }} code {{ font-size: .85em; overflow-wrap: anywhere; }}
pre {{ font-size: .8rem; line-height: 1.2; margin: 0; overflow-x: auto; }}
.quiet {{ color: #57606a; margin: .2rem 0; font-size: .92rem; }}
.card {{ background: #fff; border: 1px solid #d0d7de; border-radius: 8px; padding: .9rem 1rem;
  margin: 0 0 .8rem; }}
.card h2 {{ margin: 0 0 .5rem; }} .card p {{ margin: .3rem 0; }}
.warn {{ border-color: #b3261e; background: #fff5f4; }} .warn h2 {{ color: #b3261e; }}
.row {{ display: flex; gap: .6rem 1rem; justify-content: space-between; align-items: center;
  flex-wrap: wrap; }}
.row > * {{ min-width: 0; overflow-wrap: anywhere; }}
.dot {{ display: inline-block; width: .65rem; height: .65rem; border-radius: 50%; }}
.dot.good {{ background: #1a7f37; }} .dot.bad {{ background: #b3261e; }}
.tag {{ border-radius: 1rem; padding: .05rem .6rem; font-size: .85rem; background: #eaeef2; }}
.tag.live {{ background: #1a7f37; color: #fff; }}
.bar {{ background: #eaeef2; border-radius: 5px; height: .7rem; margin: .4rem 0;
  overflow: hidden; }}
.bar > div {{ height: 100%; }} .work {{ background: #1a7f37; }} .spent {{ background: #2c6fbb; }}
.bar > .bad {{ background: #b3261e; }} .budget + .budget {{ margin-top: 1rem; }}
.facts {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem; margin: 1rem 0; }}
.facts div {{ background: #fff; border: 1px solid #d0d7de; border-radius: 8px;
  padding: .6rem .8rem; min-width: 0; }}
.facts dd {{ font-weight: 600; }}
.sides {{ display: grid; grid-template-columns: minmax(0, 1fr) 19rem; gap: 1rem;
  align-items: start; }}
aside {{ position: sticky; top: 1rem; }}
dl {{ margin: 0; }} dt {{ color: #57606a; overflow-wrap: anywhere; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
section dl {{ display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: .3rem 1rem; }}
table {{ border-collapse: collapse; font-size: .87rem; width: 100%; margin-top: .4rem; }}
th, td {{ border-bottom: 1px solid #eaeef2; padding: .3rem .5rem; text-align: left;
  vertical-align: top; }}
th {{ color: #57606a; font-weight: 500; white-space: nowrap; }}
tr:last-child td {{ border-bottom: 0; }}
label {{ display: block; margin: .5rem 0; color: #57606a; font-size: .92rem; }}
input, textarea {{ display: block; width: 100%; font: inherit; padding: .4rem .5rem;
  border: 1px solid #8c959f; border-radius: 6px; }}
.button, button {{ display: inline-block; font: inherit; font-weight: 600; cursor: pointer;
  padding: .4rem .9rem; border-radius: 6px; border: 1px solid #1a7f37; background: #1a7f37;
  color: #fff; text-decoration: none; }}
button.plain {{ background: #fff; color: #b3261e; border-color: #b3261e; }}
@media (max-width: 48rem) {{
  .sides {{ grid-template-columns: minmax(0, 1fr); }} aside {{ position: static; }}
  .facts {{ grid-template-columns: 1fr 1fr; }}
  section dl {{ grid-template-columns: minmax(0, 1fr); gap: 0; }}
  section dd {{ margin-bottom: .5rem; }} }}
@media (max-width: 40rem) {{
  tr {{ display: flex; flex-wrap: wrap; gap: 0 .9rem; padding: .4rem 0;
    border-bottom: 1px solid #eaeef2; }}
  tr:last-child {{ border-bottom: 0; }} th, td:empty {{ display: none; }}
  tr:first-child {{ display: none; }} td {{ border: 0; padding: 0; overflow-wrap: anywhere; }}
  td::before {{ content: attr(data-of) " "; color: #57606a; }} td[data-of=""]::before {{
    content: ""; }} }}
</style></head><body>
{body}
</body></html>
"""
