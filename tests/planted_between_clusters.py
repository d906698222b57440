"""Faults of separate clusters, as `tests/mutants.py` plants them: name, file, old, new, tests."""

S, T = "actors/separate/", "tests/actors/separate/"
MESSAGES, SESSION = T + "test_messages.py", T + "test_session.py"
GATE, STRANGERS, ENROLMENT = T + "test_gate.py", T + "test_strangers.py", T + "test_enrolment.py"
PROPOSING = T + "test_proposing.py"
AGENT, UPLOADS = T + "test_lying_agent.py", T + "test_lying_uploads.py"
COORDINATOR, PROPOSALS = T + "test_lying_coordinator.py", T + "test_lying_proposals.py"

BETWEEN_CLUSTERS = (
    # -- messages
    (
        "a message of any number of values",
        "actors/codec.py",
        'if sum(map(content.count, (b"[", b"{", b","))) > most_values:',
        "if False:",
        MESSAGES,
    ),
    (
        "all faults of a message listed",
        "actors/codec.py",
        " or error.error_count() > _MOST_FAULTS:",
        ":",
        "tests/actors/test_codec.py",
    ),
    (
        "a body of any length",
        S + "messages.py",
        "    if len(body) > most_bytes(kind):",
        "    if False:",
        MESSAGES,
    ),
    (
        "attachments of another length",
        S + "messages.py",
        "    if sum(lengths) != len(body) - start:",
        "    if False:",
        MESSAGES,
    ),
    # -- sessions
    (
        "a hello of anybody",
        S + "session.py",
        "    opened(body, silo, f\"hello of silo '{hello.silo}'\")",
        "    pass",
        SESSION,
    ),
    (
        "a hello for another coordinator",
        S + "session.py",
        "    if hello.coordinator != fingerprint(identity.public):",
        "    if False:",
        SESSION,
    ),
    (
        "a welcome of anybody",
        S + "session.py",
        'content = opened(body, identity, "the coordinator\'s welcome")',
        "content = body[SIGNATURE_BYTES:]",
        SESSION,
    ),
    (
        "a coordinator that was not enrolled with",
        S + "session.py",
        "        if fingerprint(identity) != self._coordinator:",
        "        if False:",
        SESSION,
    ),
    (
        "a welcome for another hello",
        S + "session.py",
        "        if welcome.hello != hashlib.sha256(self.hello).hexdigest():",
        "        if False:",
        SESSION,
    ),
    (
        "keys that do not follow from the messages",
        S + "session.py",
        "    salt = hashlib.sha256(hello + packed(welcome)).digest()",
        '    salt = b"salt"',
        SESSION,
    ),
    (
        "one key for both directions",
        S + "session.py",
        "    return both[:32], both[32:]",
        "    return both[:32], both[:32]",
        SESSION,
    ),
    (
        "a sealed body a second time",
        S + "session.py",
        "if number in self._seen or number <= self._highest - _REMEMBERED:",
        "if False:",
        SESSION,
    ),
    (
        "a sealed body that is no longer remembered",
        S + "session.py",
        "if number in self._seen or number <= self._highest - _REMEMBERED:",
        "if number in self._seen:",
        SESSION,
    ),
    (
        "a body for any path and session",
        S + "session.py",
        'return f"{self.name} {method} {path}".encode()',
        'return b""',
        SESSION,
    ),
    (
        "a body under another session's name",
        S + "session.py",
        'return f"{self.name} {method} {path}".encode()',
        'return f"{method} {path}".encode()',
        SESSION,
    ),
    # -- the gate
    (
        "no certificate needed",
        S + "gate.py",
        "        require_certificate(request, hello.silo, self._need_certificate)",
        "        pass",
        GATE,
    ),
    (
        "a certificate looked at after the silos",
        S + "gate.py",
        """        require_certificate(request, hello.silo, self._need_certificate)
        require_version(hello, self._version)
        silo = self.registry.silo(hello.silo)
        if silo is None:
            raise Refusal(403, ClusterError(f"no silo '{hello.silo}' is enrolled here"))
""",
        """        require_version(hello, self._version)
        silo = self.registry.silo(hello.silo)
        if silo is None:
            raise Refusal(403, ClusterError(f"no silo '{hello.silo}' is enrolled here"))
        require_certificate(request, hello.silo, self._need_certificate)
""",
        GATE,
    ),
    (
        "any certificate",
        S + "peers.py",
        '    if f"{silo}.silo" not in names:',
        "    if False:",
        GATE,
    ),
    (
        "certificates of any authority",
        S + "server.py",
        "    context.verify_mode = ssl.CERT_OPTIONAL",
        "    context.verify_mode = ssl.CERT_NONE",
        GATE,
    ),
    (
        "certificates that are valid from five minutes before",
        "infra/certificates.py",
        "_SKEW = datetime.timedelta(days=2)",
        "_SKEW = datetime.timedelta(minutes=5)",
        GATE,
    ),
    (
        "any version",
        S + "peers.py",
        "if hello.protocol != PROTOCOL or hello.version.split",
        "if False and hello.version.split",
        GATE,
    ),
    (
        "any protocol",
        S + "peers.py",
        "hello.protocol != PROTOCOL or ",
        "",
        GATE,
    ),
    (
        "a hello a second time",
        S + "peers.py",
        "        if key in self.answered:",
        "        if False:",
        GATE,
    ),
    (
        "one pending session of a silo",
        S + "gate.py",
        "_MOST_PENDING = 8",
        "_MOST_PENDING = 1",
        GATE,
    ),
    (
        "any number of pending sessions",
        S + "gate.py",
        "        self._forget(peer.pending[:-_MOST_PENDING])\n",
        "",
        GATE,
    ),
    (
        "a second agent at any time",
        S + "peers.py",
        "if now and now.peer_instance != hello.instance and self.connected:",
        "if False:",
        GATE,
    ),
    (
        "a second agent between two polls",
        S + "peers.py",
        "        return alive and self.mailbox.silent_s() < STALE_S",
        "        return self.mailbox.parked > 0",
        GATE,
    ),
    (
        "a first agent that is gone for long",
        S + "peers.py",
        "        return alive and self.mailbox.silent_s() < STALE_S",
        "        return self.mailbox.silent_s() < 3600",
        GATE,
    ),
    (
        "sessions of an identity that was replaced",
        S + "gate.py",
        "        self._end_sessions(silo)\n",
        "",
        GATE,
    ),
    (
        "a hello that is refused like a request without a session",
        S + "gate.py",
        "            raise Refusal(403, error) from None",
        "            raise",
        GATE,
    ),
    # -- strangers
    (
        "a connection that never says anything",
        S + "server.py",
        "        if not self._request_count:",
        "        if False:",
        STRANGERS,
    ),
    (
        "a handshake without an end",
        S + "server.py",
        "ssl_handshake_timeout=FIRST_S if secure else None",
        "ssl_handshake_timeout=None",
        STRANGERS,
    ),
    (
        "a body without an end",
        S + "bodies.py",
        "asyncio.timeout(_BODY_S + length / (slowest or _SLOWEST))",
        "asyncio.timeout(None)",
        STRANGERS,
    ),
    (
        "a compressed body",
        S + "bodies.py",
        'if request.headers.get("Content-Encoding", "identity") != "identity":',
        "if False:",
        STRANGERS,
    ),
    (
        "a body that is decompressed",
        S + "server.py",
        "auto_decompress=False",
        "auto_decompress=True",
        STRANGERS,
    ),
    (
        "a body without a length",
        S + "bodies.py",
        """    if length is None:
        raise Refusal(411, FederationError("a body here needs its length (Content-Length)"))
""",
        "    length = length or 0\n",
        STRANGERS,
    ),
    (
        "a body that is too long",
        S + "bodies.py",
        "    if length > most:",
        "    if False:",
        STRANGERS,
    ),
    (
        "any number of connections",
        S + "server.py",
        "        if len(self._open) < self._most:",
        "        if True:",
        STRANGERS,
    ),
    (
        "the oldest connection ended, whosever it is",
        S + "server.py",
        "next((one for one in self._open if not one.known), next(iter(self._open)))",
        "next(iter(self._open))",
        STRANGERS,
    ),
    (
        "any number of connections of a silo",
        S + "peers.py",
        "_MOST_CONNECTIONS = 16",
        "_MOST_CONNECTIONS = 1600",
        STRANGERS,
    ),
    (
        "any number of bodies of a silo at once",
        S + "gate.py",
        "        if peer.arriving + length > _MOST_ARRIVING:",
        "        if False:",
        STRANGERS,
    ),
    (
        "any number of jobs at once",
        S + "gate.py",
        "        if self._proposing >= _MOST_PROPOSING:",
        "        if False:",
        STRANGERS,
    ),
    # -- enrolment
    (
        "an enrolment that nothing proves",
        S + "proven.py",
        "hmac.compare_digest(proof(one, content), given)",
        "True",
        ENROLMENT,
    ),
    (
        "an invitation that can be used again",
        S + "registry.py",
        'used = db.execute("DELETE FROM invitations WHERE secret = ?", (secret,)).rowcount',
        "used = 1",
        ENROLMENT,
    ),
    (
        "an invitation without an end",
        S + "registry.py",
        '"SELECT secret FROM invitations WHERE silo = ? AND until > ?", (silo, self._now())',
        '"SELECT secret FROM invitations WHERE silo = ?", (silo,)',
        ENROLMENT,
    ),
    (
        "an invitation for any silo",
        S + "registry.py",
        '"SELECT secret FROM invitations WHERE silo = ? AND until > ?", (silo, self._now())',
        '"SELECT secret FROM invitations WHERE until > ?", (self._now(),)',
        ENROLMENT,
    ),
    (
        "a certificate for any kind of key",
        "infra/certificates.py",
        "if not isinstance(of, ec.EllipticCurvePublicKey) or not asked.is_signature_valid:",
        "if not asked.is_signature_valid:",
        ENROLMENT,
    ),
    # -- proposing
    (
        "a job that nothing proves",
        S + "proven.py",
        "    secret = _proving(registry.proposers(), unproven, asked.proof)",
        "    secret = next(iter(registry.proposers()), None)",
        PROPOSING,
    ),
    (
        "a job that is proposed a second time",
        S + "proven.py",
        "    registry.use_nonce(asked.nonce)\n",
        "",
        PROPOSING,
    ),
    (
        "a job whose files are not as listed",
        S + "proven.py",
        "    if len(code) != len(asked.proposal.code):",
        "    if False:",
        PROPOSING,
    ),
    # -- an agent that lies
    (
        "a failure of another silo",
        S + "failures.py",
        "silo=silo, round=failure.round)",
        "silo=failure.silo, round=failure.round)",
        AGENT,
    ),
    (
        "control characters in a failure",
        S + "failures.py",
        'return "".join(c if c.isprintable() else " " for c in text)',
        "return text",
        AGENT,
    ),
    (
        "control characters in a reason",
        S + "gate.py",
        "replace(newest[digest], reason=printable(newest[digest].reason))",
        "newest[digest]",
        AGENT,
    ),
    (
        "a failure without its kind takes the call away",
        S + "mailbox.py",
        '        if answer.outcome == "raised" and answer.failure is None:',
        "        if False:",
        AGENT,
    ),
    (
        "a part of a value that is read once",
        S + "mailbox.py",
        "call.values.get(frame.digest)",
        "call.values.pop(frame.digest, None)",
        AGENT,
    ),
    (
        "a part that is listed without an end",
        S + "mailbox.py",
        "        if sum(one.size for one in answer.value) > self._most(call):",
        "        if False:",
        AGENT,
    ),
    (
        "parts without an end",
        S + "mailbox.py",
        "if size > most or len(call.values) > most // PART + 1:",
        "if len(call.values) > most // PART + 1:",
        AGENT,
    ),
    (
        "any number of parts",
        S + "mailbox.py",
        "if size > most or len(call.values) > most // PART + 1:",
        "if size > most:",
        AGENT,
    ),
    (
        "a large model claimed for every answer",
        S + "mailbox.py",
        "self.most_value if call.instruction.method in _WITH_MODEL else LEAST_VALUE",
        "self.most_value",
        AGENT,
    ),
    (
        "a part of any size",
        S + "mailbox.py",
        "if content is None or len(content) != frame.size:",
        "if content is None:",
        AGENT,
    ),
    (
        "a decision about any proposal",
        S + "gate.py",
        "newest.keys() & set(self._open_for(silo))",
        "newest.keys()",
        AGENT,
    ),
    (
        "every decision written",
        S + "gate.py",
        "            if self.registry.decisions(digest).get(silo) != decision:",
        "            if True:",
        AGENT,
    ),
    (
        "a proposal for any silo",
        S + "gate.py",
        "        if digest not in self._open_for(silo):",
        "        if digest not in {one.digest for one in self.registry.proposals()}:",
        AGENT,
    ),
    # -- uploads
    (
        "a frame added twice",
        S + "mailbox.py",
        "            if digest in call.added:",
        "            if False:",
        UPLOADS,
    ),
    (
        "frames in every call",
        S + "mailbox.py",
        "            if call.add is None:",
        "            if False:",
        UPLOADS,
    ),
    (
        "an aggregator that there is not",
        S + "cluster.py",
        "            if aggregator >= len(self._aggregators):",
        "            if False:",
        UPLOADS,
    ),
    (
        "frames in flight without an end",
        S + "mailbox.py",
        "if flying > _MOST_FLYING or len(call.added) >= _MOST_FRAMES:",
        "if len(call.added) >= _MOST_FRAMES:",
        UPLOADS,
    ),
    (
        "frames without an end",
        S + "mailbox.py",
        "if flying > _MOST_FLYING or len(call.added) >= _MOST_FRAMES:",
        "if flying > _MOST_FLYING:",
        UPLOADS,
    ),
    # -- a coordinator that lies about proposals
    (
        "files of any name",
        S + "inbox.py",
        "if not all(_CODE.fullmatch(one) for one in names) or sum",
        "if sum",
        PROPOSALS,
    ),
    (
        "files of any size",
        S + "inbox.py",
        " or sum(map(len, code)) > MOST_FILES:",
        ":",
        PROPOSALS,
    ),
    (
        "files that are not as listed",
        S + "inbox.py",
        "if len(set(names)) != len(names) or len(names) != len(code):",
        "if False:",
        PROPOSALS,
    ),
    (
        "a proposal with another digest",
        S + "inbox.py",
        "        if proposal_digest(proposal, list(code)) != digest:",
        "        if False:",
        PROPOSALS,
    ),
    (
        "closed proposals kept for ever",
        S + "inbox.py",
        "        self._forget_old()\n",
        "",
        PROPOSALS,
    ),
    (
        "a proposal that the coordinator denies",
        S + "agent.py",
        """        try:
            content = await self._link.exchange("POST", f"/v1/proposals/{digest}", b"")
""",
        """        content = await self._link.exchange("POST", f"/v1/proposals/{digest}", b"")
        try:
""",
        PROPOSALS,
    ),
    (
        "a full disk ends an agent",
        S + "inbox.py",
        """            _write(folder / "proposal.json", json.dumps(asdict(one)).encode())
        except OSError as error:""",
        """            _write(folder / "proposal.json", json.dumps(asdict(one)).encode())
        except KeyError as error:""",
        PROPOSALS,
    ),
    (
        "proposals before instructions",
        S + "agent.py",
        """        begun = self._take_instructions(answer.instructions, attached)
        if answer.board != self._board:
            await self._take_proposals(answer)
""",
        """        if answer.board != self._board:
            await self._take_proposals(answer)
        begun = self._take_instructions(answer.instructions, attached)
""",
        PROPOSALS,
    ),
    (
        "an answer that cannot be used, of which nobody hears",
        S + "agent.py",
        "answered = self._link.answered  # an answer that cannot be used mends nothing",
        "pass",
        PROPOSALS,
    ),
    *(
        (f"the owner's rule: {name}", S + "inbox.py", rule, "if False:", PROPOSALS)
        for name, rule in (
            ("a silo that the job names", "if silo not in job.roster:"),
            ("a dataset of its own", "if section.data not in file.datasets:"),
            ("no path", "if section.state or section.private_tasks:"),
            ("no code", 'if code and policy.factory == "never":'),
            ("code with a factory", "if own_functions(job) and not code:"),
            ("encryption", 'if job.encryption.scheme == "none":'),
            ("no kept uploads", 'if job.encryption.verify == "keep":'),
            ("the greatest epsilon", "if asked > most_epsilon:"),
            ("privacy", "if not job.private:"),
        )
    ),
    # -- a coordinator that lies about runs
    (
        "a start without an approval",
        S + "agent.py",
        'if received is None or received.verdict != "approved":',
        "if received is None:",
        COORDINATOR,
    ),
    (
        "an instruction a second time",
        S + "agent.py",
        "            if one.number <= self._after:",
        "            if False:",
        COORDINATOR,
    ),
    (
        "a total of any length",
        S + "local_silo.py",
        "        if sum(frame.size for frame in one.frames) > self._most:",
        "        if False:",
        COORDINATOR,
    ),
    (
        "frames that are not as announced",
        S + "local_silo.py",
        "if [len(content) for content in contents] != [frame.size for frame in one.frames]:",
        "if False:",
        COORDINATOR,
    ),
    (
        "answers without an end",
        S + "agent.py",
        "            if len(self._answers) + running >= _MOST_OPEN:",
        "            if False:",
        COORDINATOR,
    ),
    (
        "a fault that ends an agent",
        S + "agent.py",
        """            except Exception as error:  # noqa: BLE001 - no message may end the agent
                why""",
        """            except KeyError as error:
                why""",
        COORDINATOR,
    ),
    (
        "a line that cannot be shown",
        S + "agent.py",
        "            with suppress(OSError, ValueError):  # a terminal",
        "            with suppress(KeyError):  # a terminal",
        COORDINATOR,
    ),
    (
        "a request left to wait when another closes its connection",
        S + "link.py",
        "await self._unless_closed(request(http, method, url, body, headers, wait_s))",
        "await request(http, method, url, body, headers, wait_s)",
        T + "test_requests.py",
    ),
)
