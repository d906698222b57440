"""A job's own loss: tried on made-up records, called with one record at a time, and clipped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blindsum.pipelines.audit.labelling import labelling
from blindsum.platform.errors import JobError, ModelError
from blindsum.platform.job.own_code import own_functions
from blindsum.platform.job.schema import Job
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.losses import MultiTask, classification, record_loss
from blindsum.platform.training.own_loss import OwnLoss
from tests.conftest import MakeJob

TASKS = "data.tasks={toxic: {}, potency: {kind: regression, center: 5, qualifier: sign}}"


@pytest.fixture
def loss_of(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the loss of a job whose function has that body, of `outputs` and `labels`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ownloss", raising=False)

    def make(body: str, *changes: str) -> OwnLoss:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        (tmp_path / "ownloss.py").write_text(
            f"import torch\nfrom torch.nn import functional\ndef loss(outputs, labels):\n{lines}\n"
        )
        found = record_loss(make_job("training.loss=ownloss:loss", *changes).job, {})
        assert isinstance(found, OwnLoss)
        return found

    yield make
    sys.modules.pop("ownloss", None)


CROSSED = "functional.cross_entropy(outputs, labels, reduction='none')"


def test_one_s_own_cross_entropy_is_the_usual_one(loss_of: Any) -> None:
    outputs, labels = torch.randn(9, 2, requires_grad=True), torch.arange(9) % 2
    own = loss_of(f"return {CROSSED}")(outputs, labels)
    usual = classification(outputs, labels)
    torch.testing.assert_close(own, usual)
    found, expected = (torch.autograd.grad(x.sum(), outputs)[0] for x in (own, usual))
    torch.testing.assert_close(found, expected)
    nothing = loss_of(f"return {CROSSED}")(outputs[:0], labels[:0])
    assert nothing.shape == (0,)


def test_labels_of_tasks_are_those_of_the_job(loss_of: Any) -> None:
    body = (
        "assert labels.shape[1:] == (2, 2) and set(labels[:, 1, 0].tolist()) == {0.0}\n"
        "known = ~labels[:, 0].isnan()\n"
        "apart = torch.where(known, outputs - labels[:, 0].nan_to_num(), 0.0)\n"
        "return apart.square().sum(1) / 2"
    )
    loss = loss_of(body, "data.target=null", TASKS)
    labels = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[torch.nan, 2.0], [0.0, 0.0]]])
    assert loss(torch.zeros(2, 2), labels).tolist() == [2.5, 2.0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"return {CROSSED}.mean()", r"returns shape \(\), expected \(6,\)"),
        (f"return {CROSSED}[:, None]", r"returns shape \(6, 1\)"),
        (f"return {CROSSED}.tolist()", r"returns shape \(\)"),
        ("return (outputs.argmax(1) == labels).long()", r"returns shape \(6,\), expected"),
        (f"return {CROSSED}.detach()", "has no gradient"),
        (f"return {CROSSED} / 0", "not finite on made-up records"),
        ("return (outputs * 0).square().sum(1).sqrt()", "gradients that are not finite"),
        ("return missing", "failed with NameError on 6 made-up records"),
        ("raise SystemExit", "failed with SystemExit"),
        # Losses that mix records.
        (f"return {CROSSED}.mean().expand(len(labels))", "mixes the records"),
        (f"return {CROSSED} / len(labels)", "mixes the records"),
        (f"return {CROSSED}.cumsum(0)", "mixes the records"),
        ("return functional.cross_entropy(outputs, labels.roll(1), reduction='none')", "mixes"),
        (f"x = {CROSSED}\nreturn x * (x > x.detach().median())", "mixes the records"),
        ("x = outputs - outputs.detach().mean(0)\nreturn x.square().sum(1)", "mixes the records"),
        (f"return {CROSSED} * torch.bincount(labels, minlength=2)[labels]", "mixes the records"),
    ],
)
def test_what_is_no_loss_of_single_records_is_refused(loss_of: Any, body: str, said: str) -> None:
    with pytest.raises(ModelError, match=f"training.loss 'ownloss:loss'.* ?{said}"):
        loss_of(body)


def test_gaps_that_a_loss_does_not_mask_are_told(loss_of: Any) -> None:
    with pytest.raises(ModelError, match="labels of several tasks have gaps, which are NaN"):
        loss_of("return (outputs - labels[:, 0]).square().sum(1)", "data.target=null", TASKS)


def test_a_function_that_is_not_there_is_named(make_job: MakeJob) -> None:
    with pytest.raises(ModelError, match="training.loss 'ownlost:loss' cannot be imported"):
        record_loss(make_job("training.loss=ownlost:loss").job, {})


def test_whatever_the_function_does_it_sees_one_record(loss_of: Any) -> None:
    """This one passes the trial, and would mix the records of larger batches."""
    sly = loss_of(
        f"x = {CROSSED}\nreturn x if len(x) <= 6 else (outputs - outputs.mean(0)).square().sum(1)"
    )
    model, clip = nn.Linear(3, 2), 0.5
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    found = clipped_sum(model, 3, sly)(x, y, clip).sums
    expected = clipped_sum(model, 3, classification)(x, y, clip).sums
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    # One record moves the sum by no more than the clip norm, whatever the others are.
    without = clipped_sum(model, 3, sly)(x[1:], y[1:], clip).sums
    apart = torch.cat([(a - b).flatten() for a, b in zip(found, without, strict=True)])
    assert float(apart.norm()) <= clip * 1.001


def test_a_loss_with_branches_goes_record_by_record(loss_of: Any) -> None:
    body = f"x = {CROSSED}\nreturn torch.stack([2 * one if one > 0.5 else one for one in x])"
    outputs, labels = torch.randn(8, 2), torch.arange(8) % 2
    usual = classification(outputs, labels)
    found = loss_of(body)(outputs, labels)
    torch.testing.assert_close(found, torch.where(usual > 0.5, 2 * usual, usual))
    clipped = clipped_sum(nn.Linear(2, 2), 2, loss_of(body))
    assert clipped(outputs, labels, 1.0).sums[0].isfinite().all()


def test_what_a_loss_raises_about_real_labels_is_not_told() -> None:
    def quoting(outputs: Tensor, labels: Tensor) -> Tensor:
        raise ValueError(f"patient has {labels.tolist()}")

    with pytest.raises(ModelError, match="failed with ValueError on records of a silo") as caught:
        OwnLoss(quoting, "ownloss:loss")(torch.zeros(2, 2), torch.tensor([1, 1]))
    assert "patient" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    "changes",
    [
        ("data.target.focal=2",),
        ("data.target.class_weights={benign: 2}",),
        ("data.target=null", "data.tasks={toxic: {weight: 2}}"),
        ("data.target=null", "data.tasks={toxic: {positive_weight: 2}}"),
        ("data.target=null", "data.tasks={toxic: {}}", "model={kind: mlp}",
         "silos.alder.private_tasks=own.yaml"),
    ],
)  # fmt: skip
def test_a_loss_of_its_own_does_not_go_with_settings_of_the_usual_ones(
    make_job: MakeJob, changes: tuple[str, ...]
) -> None:
    with pytest.raises(JobError, match="training.loss"):
        make_job("training.loss=a:b", *changes)


def test_a_job_without_one_keeps_its_digest(make_job: MakeJob) -> None:
    job = make_job().job
    assert "loss" not in job.training.model_dump() and own_functions(job) == {}
    own = make_job("training.loss=a:b").job
    assert own_functions(own) == {"training.loss": "a:b"}
    assert Job.model_validate_json(own.model_dump_json()) == own


def test_an_audit_trains_with_the_job_s_loss_and_measures_the_usual_one(
    loss_of: Any, make_job: MakeJob
) -> None:
    loss_of("return outputs.square().sum(1)", "data.target=null", TASKS)
    found = labelling(make_job("training.loss=ownloss:loss", "data.target=null", TASKS).job)
    assert isinstance(found.loss, OwnLoss) and not found.bounded
    labels = np.array([[[1.0, 2.0], [0.0, 0.0]]], np.float32)
    usual = MultiTask(make_job("data.target=null", TASKS).job.data.tasks or {})
    seen = found.observe(np.zeros((1, 1, 2)), labels, found.views(labels))
    expected = usual(torch.zeros(1, 2), torch.from_numpy(labels))
    np.testing.assert_allclose(seen.losses[0], expected.numpy()[None] / 2, rtol=1e-6)
