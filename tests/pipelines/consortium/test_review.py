"""A review says what a proposed job would do at the silo, and what changed since the last one."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import time
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from blindsum.actors.books import LEDGER
from blindsum.he.identity import fingerprint
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.consortium import deciding
from blindsum.pipelines.consortium.brief import brief
from blindsum.pipelines.consortium.changes import Change
from blindsum.pipelines.consortium.deciding import approve_proposal, refuse_proposal
from blindsum.pipelines.consortium.review import NOT_COMPUTED, review
from blindsum.pipelines.consortium.review_text import Review
from blindsum.pipelines.run.traffic import parameter_count
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import ConsentError, JobError, ModelError
from blindsum.platform.job import paths
from blindsum.platform.job.paths import WEIGHTS
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.lifetime_limit import Limit
from blindsum.platform.state.approval import Approvals
from blindsum.platform.state.approved_code import import_approved
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.training.models import counted, get_parameters, initial_digest, model_of
from tests.conftest import COLUMNS, job_content, ledger_of
from tests.pipelines.consortium.proposals import Desk, proposed
from tests.platform.test_tokenizer_file import CONTENT as WORDS

FACTORY = b"""import torch


def net(features, outputs):
    return torch.nn.Linear(features, outputs)
"""


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    return job_content(tmp_path)


def reviewed(desk: Desk, digest: str) -> Review:
    return review(desk.owner, "alder", desk.inbox, digest)


def approve(desk: Desk, digest: str) -> Any:
    return approve_proposal(desk.owner, "alder", desk.inbox, digest, 1, time.time() + 3600)


def ledger(desk: Desk) -> Ledger:
    return ledger_of(desk.owner.state, "alder")


def test_a_review_says_what_would_be_trained_spent_sent_and_revealed(
    desk: Desk, content: dict[str, Any]
) -> None:
    found = reviewed(desk, desk.receive(proposed(content)))
    assert (found.policy, found.obstacles) == ((), ())
    assert found.columns == (*COLUMNS, "patient", "diagnosis")
    assert found.parameters == get_parameters(model_of(found.job)).size == 10
    assert found.plan is not None and found.plan.epsilon_planned <= 3
    table = Path(desk.owner.dataset("tumours").path)
    assert found.fingerprint == load_data(table, found.job.data, table / "none").fingerprint
    assert found.budget is not None and found.budget.jobs == 0
    assert found.traffic is not None and 60 < found.traffic.up < 1_000
    assert 28_000 < found.traffic.down < 30_000
    text = "\n".join(found.lines())
    for said in (
        "no job of this name was approved",
        "linear, 10 parameters",
        "diagnosis: malignant, benign",
        "epsilon 3 of at most 3, delta 0.0001",
        "142 B sent",
        "after every round, to all silos and the coordinator",
        "exact sums over all silos' held-out records",
        "identity not pinned (this silo)",
        "3 of 3 silos",
        found.fingerprint,
    ):
        assert said in text
    assert not (desk.owner.state / LEDGER).exists()  # a review leaves nothing behind


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"kind": "mlp", "hidden": [8, 4]}},
        {"model": {"kind": "mlp", "hidden": [8], "lora": {"rank": 2, "targets": ["0"]}}},
        {
            "model": {"kind": "mlp", "hidden": [8]},
            "data": {
                "features": {"kind": "ecfp", "bits": 64},
                "tasks": {"toxic": {}, "potency": {"kind": "regression"}},
                "folds": {"kind": "hash", "column": "patient", "salt": "s"},
            },
        },
    ],
)
def test_the_number_of_parameters_is_that_of_the_built_model(
    content: dict[str, Any], changes: dict[str, Any]
) -> None:
    job = proposed(content, **changes)
    assert parameter_count(job) == get_parameters(model_of(job)).size


def test_a_review_says_how_many_parameters_train_and_finds_the_silos_weights(
    desk: Desk, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights lie in the silo's state, where an approval finds them too."""
    monkeypatch.setattr(paths, "_HELD", [])
    model: dict[str, Any] = {"kind": "mlp", "hidden": [8], "lora": {"rank": 2, "targets": ["0"]}}
    first = {"0.weight": torch.ones(8, len(COLUMNS))}
    folder = desk.owner.state / WEIGHTS
    folder.mkdir()
    save_file(first, folder / "first.safetensors")
    digest = hashlib.sha256((folder / "first.safetensors").read_bytes()).hexdigest()
    model["weights"] = {"file": "first.safetensors", "sha256": digest, "only": ["0.weight"]}
    job = proposed(content, model=model)
    proposal = desk.receive(job)
    every, trained = counted(job.model, (len(COLUMNS),), job.data.outputs)
    text = " ".join(" ".join(reviewed(desk, proposal).lines()).split())
    assert f"{trained} of {every} parameters are trained, by adapters of rank 2" in text
    assert approve(desk, proposal).weights == initial_digest(model_of(job))


def test_the_owners_rules_stand_in_the_review_and_prevent_an_approval(
    tmp_path: Path, tables: dict[str, Path], content: dict[str, Any]
) -> None:
    desk = Desk(tmp_path / "desk", tables["alder"], policy={"most_epsilon": 1.0})
    model = {"kind": "factory", "factory": "planted:net"}
    planted = b"raise SystemExit('the code of a refused job ran')\n"
    digest = desk.receive(proposed(content, model=model), {"planted.py": planted})
    found = reviewed(desk, digest)
    assert len(found.policy) == 2 and "spends epsilon 3" in found.policy[0]
    assert "The owner's file refuses it" in found.lines()
    with pytest.raises(ConsentError, match="silo allows 1 a job.*code of its own"):
        approve(desk, digest)
    assert desk.inbox.one(digest).verdict == "pending"
    stranger = Job.model_validate(content | {"silos": content["silos"][1:]})
    assert reviewed(desk, desk.receive(stranger)).policy == ("the job does not name silo 'alder'",)
    desk.close()


def test_what_would_stop_a_run_here_is_said_before_it_is_approved(
    desk: Desk, content: dict[str, Any]
) -> None:
    shared = {"noise": "shared", "epsilon": 3, "delta": 1e-4}
    once = content["training"] | {"local_steps": 1}
    job = proposed(content, privacy=shared, training=once)
    assert (
        "identities of birch, cedar are not pinned"
        in reviewed(desk, desk.receive(job)).obstacles[0]
    )
    silos = [{"name": n, "data": "tumours", "identity": "ab" * 32} for n in ("alder", "birch")]
    own = fingerprint(desk.organisation.identity.public)
    wrong = Job.model_validate(content | {"silos": silos})
    (said,) = reviewed(desk, desk.receive(wrong)).obstacles
    assert "another identity for this silo" in said and own[:16] in said
    silos[0]["identity"] = own
    pinned = reviewed(desk, desk.receive(Job.model_validate(content | {"silos": silos})))
    assert not pinned.obstacles
    assert f"  alder                identity {own[:4]} {own[4:8]}" in "\n".join(pinned.lines())
    data = content["data"] | {"target": {"column": "stage", "classes": ["one", "two"]}}
    found = reviewed(desk, desk.receive(proposed(content, data=data)))
    assert "stage" in found.obstacles[0] and found.fingerprint is None


def test_the_lifetime_limit_that_a_job_would_exceed_is_named(
    desk: Desk, content: dict[str, Any]
) -> None:
    with_limit = ledger(desk)
    with_limit.set_limit(Limit(1.0, 1e-5))
    with_limit.close()
    found = reviewed(desk, desk.receive(proposed(content)))
    assert found.budget is not None and found.budget.left == 1.0
    assert "would exceed the lifetime limit of epsilon 1 " in found.obstacles[0]
    bare = reviewed(desk, desk.receive(proposed(content, privacy={"noise": "none"})))
    assert "epsilon is unbounded" in bare.obstacles[0]
    assert "WITHOUT differential privacy" in " ".join(" ".join(bare.lines()).split())


def test_every_setting_that_changed_since_the_last_approval_is_shown(
    desk: Desk, content: dict[str, Any]
) -> None:
    first = desk.receive(proposed(content))
    approve(desk, first)
    found = reviewed(desk, first)
    assert found.earlier is None  # it is not compared with itself
    other = desk.receive(proposed(content, name="other"))
    assert reviewed(desk, other).earlier is None
    privacy = content["privacy"] | {"epsilon": 5, "clip_quantile": 0.5}
    silos = [*content["silos"], {"name": "elm", "data": "x"}]
    changed = reviewed(desk, desk.receive(proposed(content | {"silos": silos}, privacy=privacy)))
    assert changed.earlier is not None
    assert changed.earlier.changes == (
        Change("privacy.epsilon", "3.0", "5.0"),
        Change("silos.elm.name", "(not set)", "elm"),
        Change("silos.elm.data", "(not set)", "tumours"),
        Change("privacy.clip_quantile", "(not set)", "0.5"),
    )
    assert "  privacy.epsilon      3.0 -> 5.0" in changed.lines()


def test_an_earlier_job_that_left_the_inbox_is_named(desk: Desk, content: dict[str, Any]) -> None:
    books = ledger(desk)
    gone = Approvals(books).give(proposed(content, seed=9), "ab", 1, time.time() + 60)
    books.close()
    found = reviewed(desk, desk.receive(proposed(content)))
    assert found.earlier is not None and found.earlier.changes is None
    assert f"job {gone.job[:16]} was approved, but is no longer" in "\n".join(found.lines())


def test_code_is_approved_by_its_digest_in_a_process_of_its_own(
    tmp_path: Path,
    tables: dict[str, Path],
    content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(tmp_path / "desk", tables["alder"], policy={"factory": "approved"})
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")  # a process that is aborted shows its stacks
    try:
        # The agent's process may know a module of that name, from an earlier job.
        monkeypatch.setitem(sys.modules, "ownnet", types.ModuleType("ownnet"))
        model = {"kind": "factory", "factory": "ownnet:net"}
        job = proposed(content, model=model, privacy={"noise": "none"})
        first = desk.receive(job, {"ownnet.py": FACTORY})
        found = reviewed(desk, first)
        assert found.parameters is None and found.traffic is None
        sha = hashlib.sha256(FACTORY).hexdigest()
        assert found.code == {"ownnet.py": sha} and f"SHA-256 {sha}" in "\n".join(found.lines())
        assert approve(desk, first).code == {"ownnet.py": sha}
        assert not any(str(desk.inbox.folder(first)) in entry for entry in sys.path)
        longer = FACTORY + b"# another\n"
        earlier = reviewed(desk, desk.receive(job, {"ownnet.py": longer})).earlier
        other = hashlib.sha256(longer).hexdigest()
        assert earlier is not None
        assert earlier.changes == (Change("code ownnet.py", sha[:16], other[:16]),)
    finally:
        desk.close()


def test_the_code_of_all_of_a_job_s_functions_is_approved_together(
    tmp_path: Path, tables: dict[str, Path], content: dict[str, Any]
) -> None:
    desk = Desk(tmp_path / "desk", tables["alder"], policy={"factory": "approved"})
    try:
        loss = b"""from torch.nn import functional


def loss(outputs, labels):
    return functional.cross_entropy(outputs, labels, reduction="none")
"""
        code = {"ownnet.py": FACTORY, "ownloss.py": loss}
        model = {"kind": "factory", "factory": "ownnet:net"}
        own = content["training"] | {"loss": "ownloss:loss"}
        job = proposed(content, model=model, training=own, privacy={"noise": "none"})
        digest = desk.receive(job, code)
        text = "\n".join(reviewed(desk, digest).lines())
        assert "ownnet:net makes the model" in text
        assert "ownloss:loss computes the loss of each record in training" in text
        covered = brief(reviewed(desk, digest), desk.owner, 1, "2030-01-01")
        assert [text.partition(":")[0] for label, text in covered if label == "runs code"] == [
            "ownnet",
            "ownloss",
        ]
        given = approve(desk, digest)
        assert given.code == {n: hashlib.sha256(one).hexdigest() for n, one in code.items()}
        (desk.owner.state / "approved" / given.id / "ownloss.py").write_bytes(loss + b"# more\n")
        with pytest.raises(ConsentError, match="not the code that this silo's owner approved"):
            import_approved(desk.owner.state, given.id, given.code)
        only_a_loss = proposed(content, training=own)
        (said,) = reviewed(desk, desk.receive(only_a_loss)).policy
        assert said == "the job has a training.loss, but the proposal has no code"
    finally:
        desk.close()


def test_a_dataset_of_its_own_is_code_that_needs_an_approval(
    tmp_path: Path, tables: dict[str, Path], content: dict[str, Any]
) -> None:
    """It reads the table as it is. A review runs nothing of it."""
    features = {
        "kind": "factory",
        "function": "owndata:made",
        "columns": {"mean_radius": "number"},
        "shape": {"x": {"shape": [2]}},
    }
    model = {"kind": "factory", "factory": "ownnet:net"}
    data = content["data"] | {"features": features}
    job = proposed(content, data=data, model=model, privacy={"noise": "none"})
    ran = tmp_path / "ran"
    net = b"import torch\n\n\nclass net(torch.nn.Linear):\n    def __init__(self, tensors, outputs)"
    net += b":\n        super().__init__(2, outputs)\n\n    def forward(self, x):\n        "
    net += b"return super().forward(x['x'])\n"
    made = f"open({str(ran)!r}, 'w').close()\n\n\ndef made(table):\n    return []\n".encode()
    strict = Desk(tmp_path / "strict", tables["alder"])
    desk = Desk(tmp_path / "desk", tables["alder"], policy={"factory": "approved"})
    try:
        code = {"owndata.py": made, "ownnet.py": net}
        (said,) = reviewed(strict, strict.receive(job, code)).policy
        assert said == "the job brings code of its own (model.factory, data.features.function)"
        digest = desk.receive(job, code)
        found = review(desk.owner, "alder", desk.inbox, digest, features=True)
        text = " ".join("\n".join(found.lines()).split())
        assert "owndata:made makes the tensors of each record: it reads the columns" in text
        assert "owndata:made makes x (float32, shape (2,))" in text
        assert found.concerns == (NOT_COMPUTED,) and not ran.exists()
        assert approve(desk, digest).code.keys() == code.keys() and ran.exists()
    finally:
        desk.close()
        strict.close()


def test_a_tokenizer_is_looked_for_in_the_silo_s_own_folder(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    pq.write_table(pa.table({"note": ["no pain"] * 40, "ill": [0, 1] * 20}), tmp_path / "notes")
    (tmp_path / "notes").rename(tmp_path / "notes.parquet")
    desk = Desk(tmp_path / "desk", tmp_path / "notes.parquet")
    sha256 = hashlib.sha256(WORDS).hexdigest()
    named = {"file": "of-silo.json", "sha256": sha256}
    data = {
        "features": {"kind": "text", "column": "note", "length": 8, "tokenizer": named},
        "target": {"column": "ill", "classes": [0, 1]},
        "folds": {"kind": "random", "salt": "s"},
    }
    model = {"kind": "transformer", "width": 8, "heads": 2, "layers": 1, "hidden": 8}
    digest = desk.receive(proposed(content, data=data, model=model))
    try:
        assert "there is no file of-silo.json" in " ".join(reviewed(desk, digest).obstacles)
        with pytest.raises(ModelError, match="there is no file of-silo.json"):
            approve(desk, digest)
        (desk.owner.state / "weights").mkdir()
        (desk.owner.state / "weights" / "of-silo.json").write_bytes(WORDS)
        found = reviewed(desk, digest)
        assert not found.obstacles and found.parameters is not None
        text = " ".join("\n".join(found.lines()).split())
        assert f"tokenizer of-silo.json, SHA-256 {sha256}" in text
        assert approve(desk, digest).runs == 1
    finally:
        desk.close()


def test_code_that_ends_the_process_approves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "approve_job", os._exit)
    with pytest.raises(ModelError, match="ended before it was done"):
        deciding._apart(3)


def test_decisions_are_kept_for_the_agent(desk: Desk, content: dict[str, Any]) -> None:
    digest = desk.receive(proposed(content))
    given = approve(desk, digest[:8])
    assert desk.inbox.one(digest).verdict == "approved"
    assert desk.inbox.one(digest).weights == given.weights
    refuse_proposal(desk.inbox, digest, " we changed our mind ")
    assert (desk.inbox.one(digest).verdict, desk.inbox.one(digest).reason) == (
        "refused",
        "we changed our mind",
    )
    with pytest.raises(JobError, match="needs a reason"):
        refuse_proposal(desk.inbox, digest, " ")
    desk.inbox.take_notices([])
    with pytest.raises(ConsentError, match="no longer proposes"):
        approve(desk, digest)


def test_approvals_of_proposals_are_listed_and_revoked(desk: Desk, content: dict[str, Any]) -> None:
    """With the command that the owner is told, although the owner's file has a place of its own."""

    def agent(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["silo", "approve", *arguments])

    digest, file = desk.receive(proposed(content)), ("--file", str(desk.owner.path))
    assert "has approved no job" in agent("--list", *file).stderr
    assert "needs a proposed job" in str(agent(*file).exception)
    done = agent(digest[:8], "--yes", *file)
    told = shlex.split(done.stdout.partition("to take it back: blindsum silo approve ")[2])
    assert agent("--list", *file).stdout.rstrip().endswith("valid")
    assert "revoked" in agent(*told).stdout
    assert agent("--list", *file).stdout.rstrip().endswith("revoked")
    assert f"See: blindsum silo approve --file {desk.owner.path} --list" in str(
        agent(*told).exception
    )


def test_doubtful_settings_are_named_before_they_are_approved(
    desk: Desk, content: dict[str, Any]
) -> None:
    private = content["privacy"] | {"epsilon": 1e6}
    found = reviewed(desk, desk.receive(proposed(content, privacy=private)))
    text = " ".join("\n".join(found.lines()).split())
    assert "Doubtful settings" in text and "privacy.epsilon 1e+06 promises little" in text
    assert "Doubtful" not in "\n".join(reviewed(desk, desk.receive(proposed(content))).lines())
    covered = dict(brief(found, desk.owner, 1, "2030-01-01"))
    assert covered["leaves: model"].startswith(
        "after every round, to all silos and the coordinator"
    )
    assert "promises little" in covered["warning"] and covered["silos"].startswith("alder, birch")


def test_control_characters_of_a_job_reach_no_terminal(desk: Desk, content: dict[str, Any]) -> None:
    data = content["data"] | {"target": {"column": "\x1b[2J\u202egpj", "classes": ["a", "b\n\r"]}}
    text = reviewed(desk, desk.receive(proposed(content, data=data))).lines()
    assert all(line.isprintable() for line in text)
    assert "\\x1b[2J\\u202egpj: a, b\\n\\r" in "\n".join(text)
