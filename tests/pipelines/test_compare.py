"""Baselines, sweeps, and runs beside each other."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy import stats

from blindsum.pipelines.comparison import compare as comparing
from blindsum.pipelines.comparison import own_gains
from blindsum.pipelines.comparison import sweep as sweeping
from blindsum.pipelines.comparison.baseline import _Outputs, baseline, member_of, together, trained
from blindsum.pipelines.comparison.compare import Comparison, Trial, compare
from blindsum.pipelines.comparison.compare_page import as_page, run_compare
from blindsum.pipelines.comparison.estimates import Estimate, Scored, difference, mean
from blindsum.pipelines.comparison.own_gains import gains_by_task
from blindsum.pipelines.comparison.sweep import Point, cost, points, run_sweep
from blindsum.pipelines.comparison.verdicts import notes
from blindsum.platform.errors import BlindsumError, JobError, TrackingError
from blindsum.platform.evaluation.intervals import Interval, of_share
from blindsum.platform.job.file import JobFile
from blindsum.platform.training.models import build_model, initial_digest
from tests.conftest import SILOS, MakeJob

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns its users; not ours to mend

NONE = "privacy={noise: none}"


def trial(arm: str, score: float, seed: int, epsilon: float | None = None, **more: float) -> Trial:
    figures = {"accuracy": score, **more}
    return Trial(f"{arm}-{seed}", arm, epsilon, True, str(seed), "accuracy", figures, (("a", "1"),))


def test_gains_are_paired_by_seed() -> None:
    """What a seed gives both arms does not widen the interval."""
    easy = {1: 0.5, 2: 0.7, 3: 0.9}
    trials = [trial("local", base, seed) for seed, base in easy.items()]
    trials += [trial("federated", base + 0.02, seed, 3.0) for seed, base in easy.items()]
    trials += [trial("federated", 0.1, 7, 3.0)]  # a seed that local training never had
    group = comparing._group([t for t in trials if t.arm == "federated"], trials)
    assert group.gain and group.gain.count == 3
    assert (group.gain.mean, group.gain.low, group.gain.high) == pytest.approx((0.02,) * 3)
    assert group.of_gap == pytest.approx(np.mean([0.02 / (1 - base) for base in easy.values()]))
    assert group.relative == pytest.approx(np.mean([0.02 / base for base in easy.values()]))
    assert comparing._group(trials[:3], trials).gain is None
    # A private local run with the same seed is no base where there is one without privacy.
    private = [trial("local", 0.1, 1, 3.0), *trials]
    again = comparing._group([t for t in trials if t.arm == "federated"], private)
    assert again.gain == group.gain
    # Runs of one seed are no repetitions: the newest counts, which comes first.
    twice = [trial("federated", 0.9, 1, 3.0), trial("federated", 0.2, 1, 3.0)]
    assert comparing._group(twice, trials).score == Estimate(0.9, None, None, 1)
    perfect = [trial("local", 1.0, 1), trial("federated", 0.99, 1, 3.0)]
    assert comparing._group(perfect[1:], perfect).of_gap is None


def test_intervals_have_a_part_for_seeds_and_one_for_held_out_records() -> None:
    values = [0.1, 0.4, 0.3, 0.2]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    seeds = mean([Scored(v, str(i)) for i, v in enumerate(values)])
    assert seeds.interval == pytest.approx((low, high))
    one = mean([Scored(0.3, "1", Interval(0.25, 0.38))])
    assert (one.low, one.high) == pytest.approx((0.25, 0.38)), "as the run itself showed it"
    both = mean([Scored(v, str(i), Interval(v - 0.1, v + 0.1)) for i, v in enumerate(values)])
    assert both.high == pytest.approx(np.mean(values) + np.hypot(0.1, (high - low) / 2))
    assert mean([Scored(0.95, "1", Interval(0.9, 1.2))], most=1.0).high == 1.0


def test_a_difference_of_two_shares_is_newcombe_s() -> None:
    """His table II, method 10: 56/70 against 48/80 is 0.2000 (0.0524 to 0.3339)."""
    ours, theirs = (Scored(a / n, "1", of_share(a / n, n)) for a, n in ((56, 70), (48, 80)))
    found = difference([ours], [theirs])
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert not found.within_noise
    # On other seeds, runs are not paired.
    other = difference([ours], [Scored(theirs.score, "2", theirs.interval)])
    assert (other.low, other.high) == (found.low, found.high)


def test_what_is_noise_is_said_and_a_diverged_run_is_in_no_mean(tmp_path: Path) -> None:
    """Epsilon 1 beats epsilon 3 by a hundredth, on 187 records."""

    def run(epsilon: float, score: float, **more: str) -> Trial:
        ends = of_share(score, 187)
        figures = {"accuracy": score, "accuracy_low": ends.low, "accuracy_high": ends.high}
        noise = "shared noise, delta 0.0001"
        own = Trial(
            f"run-{epsilon}", "federated", epsilon, True, "1", "accuracy", figures, (), noise
        )
        return replace(own, **more)

    trials = [run(1.0, 0.781), run(3.0, 0.770), run(0.1, 0.4)]
    grouped = {one.group: [one] for one in trials}
    groups = comparing._against_best([comparing._group([t], trials) for t in trials], grouped)
    alone = [run(1.0, 0.7, arm="local", silo="alder", mechanism="its own noise, delta 0.0001")]
    diverged = [replace(run(8.0, 0.5), figures={"accuracy_diverged": 1.0})]
    found = Comparison("trial", "accuracy", trials, groups, [], alone, diverged)
    said = "\n".join(notes(found))
    assert "Best mean: federated, epsilon 1, shared" in said
    assert "Not distinguishable from it on these records: federated, epsilon 3, shared" in said
    assert "Distinguishable from it: federated, epsilon 0.1, shared" in said
    assert "-0.381 (95 %: -0.47 to -0.28)" in said
    assert "alder alone, epsilon 1, its own noise, delta 0.0001: accuracy 0.700 (95 %" in said
    assert "Diverged, and in no mean: run-8.0" in said and "models of one seed" in said
    page = as_page(found)
    assert (
        "0.781 (95 %: 0.72 to 0.83)" in page and "Not distinguishable" in page and "±" not in page
    )
    stale = {"accuracy": 0.4, "loss": 2.0, "accuracy_diverged": 1.0, "seconds_round": 0.1}
    assert set(comparing._of_last_model(stale)) == {"accuracy_diverged", "seconds_round"}


def test_settings_that_differ_are_named() -> None:
    one, other = trial("local", 0.5, 1), trial("federated", 0.6, 1)
    assert comparing._differing([one, other]) == []
    changed = Trial(**{**vars(other), "settings": (("a", "2"),)})
    assert comparing._differing([one, changed]) == ["a"]
    absent = Trial(**{**vars(other), "settings": ()})  # null, which MLflow does not show
    assert comparing._differing([one, absent]) == ["a"]


def test_models_of_several_kinds_have_groups_and_settings_of_their_own() -> None:
    def run(arm: str, kind: str, score: float, rate: str, salt: str = "s") -> Trial:
        settings = (("data.folds.salt", salt), ("model.kind", kind), ("training.rate", rate))
        return replace(trial(arm, score, 1), settings=settings)

    found = comparing._by_model(
        [run("federated", "mlp", 0.7, "3"), run("federated", "trees", 0.8, "0.3")]
    )
    assert [comparing.arm_of(one.group) for one in found] == ["federated, mlp", "federated, trees"]
    assert comparing._differing(found) == []
    alike = [run("federated", "mlp", 0.7, "3"), run("federated", "mlp", 0.8, "0.3")]
    assert comparing._by_model(alike) == alike
    assert comparing._differing(alike) == ["training.rate"]
    other = comparing._by_model([run("federated", "mlp", 0.7, "3", "t"), alike[0], *found[1:]])
    assert comparing._differing(other) == ["data.folds.salt"]
    # A gain is over the same kind of model.
    alone = [run("local", "mlp", 0.6, "3"), run("local", "trees", 0.5, "0.3")]
    trials = comparing._by_model([*found, *alone])
    gains = [comparing._group([one], trials).gain for one in trials[:2]]
    assert [round(gain.mean, 9) for gain in gains if gain] == [0.1, 0.3]


@pytest.fixture
def assays(make_job: MakeJob, tmp_path: Path) -> JobFile:
    """One shared task, and one of birch's own."""
    for silo in SILOS:
        table = pyarrow.parquet.read_table(tmp_path / f"{silo}.parquet")
        hit = np.array(table["diagnosis"].to_pylist()) == "benign"
        for name in ("hit", "own"):
            table = table.append_column(name, pa.array(hit * 1.0))
        pyarrow.parquet.write_table(table, tmp_path / f"{silo}.parquet")
    (tmp_path / "own.yaml").write_text("own: {}\n")
    return make_job(
        "data.target=null",
        "data.tasks={hit: {}}",
        "model={kind: mlp, hidden: [6]}",
        NONE,
        "silos.birch.private_tasks=own.yaml",
        "training.learning_rate=1.0",
        "training.rounds=6",
    )


def test_figures_of_an_earlier_model_than_was_released_are_in_no_mean() -> None:
    """A silo was lost in round 22, evaluation stopped, and training went on to round 149."""
    tags = {"blindsum.rounds": "149", "blindsum.evaluated": "21"}
    assert comparing._stopped(tags, {}) == "round 21 of 149"
    assert comparing._stopped(tags | {"blindsum.evaluated": "149"}, {}) == ""
    every = {"privacy.metrics_every": "50"}
    assert comparing._stopped(tags | {"blindsum.evaluated": "100"}, every) == ""
    assert comparing._stopped(tags | {"blindsum.evaluated": "50"}, every) == "round 50 of 149"
    assert comparing._stopped({}, {}) == "", "a run of an earlier version"


def test_arms_are_compared_in_figures_a_page_and_by_task(assays: JobFile, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no MLflow database"):
        compare(assays, None, [])
    steps: list[None] = []
    local = baseline(assays, "local", done=lambda: steps.append(None))
    pooled = baseline(assays, "pooled", tags={"blindsum.arm": "federated"})  # stands for a run
    assert len(steps) == 3 * 6 and local.epsilon is None
    for one in (local, pooled):
        assert one.held_out.binary_tasks == 3  # type: ignore[union-attr]
        assert one.held_out.score.value > 0.9 and one.tracking_failure is None
    one = baseline(assays, "local", "birch")
    found = compare(assays, None, [])
    assert [trial.name for trial in found.alone] == [one.run], "of other records: in no group"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(
        [client.get_experiment_by_name("trial").experiment_id],
        f"attributes.run_name = '{one.run}'",
    )
    assert run.data.tags["blindsum.encryption"] == "nothing is sent"
    assert "exact" in run.data.tags["blindsum.metrics_guarantee"]
    assert [(g.arm, g.score.count) for g in found.groups] == [("local", 1), ("federated", 1)]
    gain = pooled.held_out.score.value - local.held_out.score.value
    assert found.groups[1].gain and found.groups[1].gain.mean == pytest.approx(gain)
    run_compare(assays, None, [], [], None, mlflow=True, as_json=False)
    page = (tmp_path / "compare-trial.html").read_text()
    assert "mean AUROC" in page and "http" not in page and "<script" not in page
    older = client.create_run(run.info.experiment_id, run_name="cut short")
    for name, value in {"blindsum.rounds": "6", "blindsum.evaluated": "2"}.items():
        client.set_tag(older.info.run_id, name, value)
    client.log_metric(older.info.run_id, "held_out/auroc", 0.1)
    client.set_terminated(older.info.run_id)
    again = compare(assays, None, [])
    assert [trial.name for trial in again.stopped] == ["cut short"]
    assert [g.score.mean for g in again.groups] == [g.score.mean for g in found.groups]
    assert "cut short (after round 2 of 6)" in " ".join(notes(again))
    with pytest.raises(JobError, match="no finished run of .* was evaluated to its end"):
        compare(assays, None, ["cut short"])
    client.delete_run(older.info.run_id)
    with pytest.raises(JobError, match="has no finished run 'nothing'"):
        compare(assays, None, ["nothing"])
    with pytest.raises(JobError, match="lacks figures by task of a local run and another run"):
        gains_by_task(assays, ["birch"], found)
    # A silo's own figures by task, as a federated run leaves them there.
    own = tmp_path / "state" / "birch" / "runs"
    (own / pooled.run).mkdir()
    (own / pooled.run / "tasks.csv").write_text("round,task,auroc\n6,hit,0.9\n6,own,0.8\n")
    gains = gains_by_task(assays, ["birch"], found)
    by_task = {one.task: one for one in gains["federated, no privacy"]}
    assert set(by_task) == {"hit", "own"} and {one.silo for one in by_task.values()} == {"birch"}
    before = own_gains._by_task(own / local.run, "3")["own"]["auroc"].score
    assert by_task["own"].gains["auroc"].mean == pytest.approx(0.8 - before)
    assert "Gains by task" in as_page(found, gains) and "own" in as_page(found, gains)
    for _ in range(2):  # again adds nothing
        run_compare(
            assays, None, [], ["birch"], tmp_path / "birch.html", mlflow=False, as_json=False
        )
    assert (tmp_path / "birch.csv").stat().st_mode & 0o777 == 0o600
    own_file = tmp_path / "state" / "birch" / "mlflow.db"
    assert own_file.stat().st_mode & 0o777 == 0o600
    own_client = mlflow.MlflowClient(f"sqlite:///{own_file}")
    kept = own_client.search_runs([own_client.get_experiment_by_name("trial").experiment_id])
    assert {run.info.run_name for run in kept} == {local.run, pooled.run, one.run}
    assert all({"auroc/hit", "auroc/own"} <= set(run.data.metrics) for run in kept)
    of_local = next(run.info.run_id for run in kept if run.info.run_name == local.run)
    models = own_client.search_logged_models([kept[0].info.experiment_id])
    (mine,) = (model for model in models if model.source_run_id == of_local)
    served = mlflow.pyfunc.load_model(mine.artifact_location)

    assert "probability_own" in served.metadata.signature.outputs.input_names()
    with pytest.raises(JobError, match="do not go to MLflow"):
        run_compare(assays, None, [], ["birch"], None, mlflow=True, as_json=False)


def test_a_pooled_model_has_every_silos_tasks_and_gaps_elsewhere(assays: JobFile) -> None:
    members = [member_of(assays, name) for name in SILOS]
    whole = together(assays.job, members)
    labels = whole.data.train.labels
    assert labels.shape[1:] == (2, 2) and len(labels) == sum(len(m.data.train) for m in members)
    first, second = len(members[0].data.train), len(members[1].data.train)
    assert np.isnan(labels[:first, 0, 1]).all() and np.isnan(labels[first + second :, 0, 1]).all()
    np.testing.assert_array_equal(labels[first : first + second], members[1].data.train.labels)
    model = trained(assays.job, whole, None, "pooled", lambda: None)
    import torch

    x = torch.from_numpy(members[1].data.test.features)
    torch.testing.assert_close(_Outputs(model, [1])(x)[:, 0], model(x)[:, 1])


def test_a_silo_alone_makes_all_of_the_noise(make_job: MakeJob, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Its share of a noise that others would complete is no privacy."""
    from blindsum.pipelines.comparison import baseline as module

    seen = []
    monkeypatch.setattr(module, "trained", lambda job, member, own, *_: seen.append(own) or 1 / 0)
    shared = make_job("privacy={noise: shared, epsilon: 3, delta: 1e-4}", "training.local_steps=1")
    for arm in ("local", "pooled"):
        with pytest.raises(ZeroDivisionError):
            baseline(shared, arm)  # type: ignore[arg-type]
    assert [own.share for own in seen] == [None, None] and all(
        own.noise_multiplier > 0 for own in seen
    )
    with pytest.raises(JobError, match="the pooled arm uses all silos"):
        baseline(shared, "pooled", "birch")
    server = make_job("tracking.uri=http://127.0.0.1:1")
    with pytest.raises(JobError, match="only for the owners of the records.*--publish"):
        baseline(server, "local")


@pytest.mark.usefixtures("cluster")
def test_a_sweep_goes_on_where_it_stopped_and_says_what_it_costs(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file = make_job("training.rounds=2")
    overrides = ["training.rounds=2"]
    real, tried = sweeping.baseline, []

    def failing(job_file: JobFile, arm: str, **more: object) -> object:
        tried.append(job_file.job.seed)
        if len(tried) == 2:
            raise BlindsumError("no room")
        return real(job_file, arm, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeping, "baseline", failing)
    with pytest.raises(BlindsumError, match="1 of 2 runs failed.*seed 4: no room"):
        run_sweep(job_file, overrides, "2", 2, "local", 1)
    capsys.readouterr()
    run_sweep(job_file, overrides, "2", 2, "local", 2)
    assert tried == [3, 4, 4] and "1 of 2 runs were already finished" in capsys.readouterr().err
    run_sweep(job_file, overrides, "2", 1, "federated,local", 1)
    shown = capsys.readouterr()
    said = shown.err.replace("\n", " ")
    assert "epsilon 2 at delta 0.0001" in said and tried == [3, 4, 4]
    # What was asked for is on stdout; whose runs they are is said in words.
    assert "experiment trial" in shown.out and "experiment trial" not in shown.err
    assert "each silo alone" in shown.out and "(95 %" in shown.out and "±" not in shown.out
    found = compare(job_file, None, [])
    assert {(g.arm, g.epsilon, g.score.count) for g in found.groups} == {
        ("federated", 2.0, 1),
        ("local", 2.0, 2),
    }
    assert next(g for g in found.groups if g.arm == "federated").gain.count == 1  # type: ignore[union-attr]


def test_impossible_sweeps_are_refused(make_job: MakeJob) -> None:
    job_file = make_job()
    for epsilon, seeds, arms, said in (
        ("x", 1, "local", "not a list of budgets"),
        ("1", 1, "alone", "unknown arm 'alone'"),
        ("-1", 1, "local", "epsilon"),
    ):
        with pytest.raises(JobError, match=said):
            run_sweep(job_file, [], epsilon, seeds, arms, 1)
    with pytest.raises(JobError, match="does not know which noise"):
        points(make_job(NONE), [1.0], 1, ["local"])
    assert "NO privacy" in cost(job_file, [Point("federated", None, 1)])
    only_local = cost(job_file, [Point("local", 1.0, 1)])
    assert "charged to no ledger" in only_local and "in full" not in only_local
    strict = make_job("silos.birch.epsilon=1")
    bare = sweeping.told(strict.path, ["silos.birch.epsilon=1"], Point("local", None, 5)).job
    assert bare.privacy.noise == "none" and bare.silo("birch").epsilon is None and bare.seed == 5


def test_models_made_in_threads_have_their_own_weights(make_job: MakeJob) -> None:
    """Torch has one generator for all threads: a sweep's runs would draw each other's."""
    section = make_job("model={kind: mlp, hidden: [64]}").job.model

    def digest(seed: int) -> str:
        return initial_digest(build_model(section, 30, 2, seed=seed, private=False))

    alone = [digest(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digest, [*range(8)] * 10)) == alone * 10
