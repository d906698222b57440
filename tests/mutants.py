"""Protections taken out one at a time, by name: the tests must notice each.

    python tests/mutants.py              all of them; `make mutants`
    python tests/mutants.py NAME ...     those whose name contains one of the words

Not a part of the suite: a mutant takes as long as the tests that are to kill it. Each is tried on a
copy of the checkout, which has to pass the same tests unchanged first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # as a script
    sys.path.insert(0, str(ROOT))

from tests.planted_between_clusters import BETWEEN_CLUSTERS
from tests.planted_in_clipping import IN_CLIPPING
from tests.planted_in_evaluation import IN_EVALUATION
from tests.planted_in_graphs import IN_GRAPHS
from tests.planted_in_large_updates import IN_LARGE_UPDATES
from tests.planted_in_models import IN_MODELS
from tests.planted_in_overlaps import IN_OVERLAPS
from tests.planted_in_own_code import IN_OWN_CODE
from tests.planted_in_predictions import IN_PREDICTIONS
from tests.planted_in_regressions import IN_REGRESSIONS
from tests.planted_in_rounds import IN_ROUNDS
from tests.planted_in_simulations import IN_SIMULATIONS
from tests.planted_in_statistics import IN_STATISTICS
from tests.planted_in_tables import IN_TABLES
from tests.planted_in_the_audit import IN_THE_AUDIT
from tests.planted_in_the_average import IN_THE_AVERAGE
from tests.planted_in_trees import IN_TREES
from tests.planted_in_workers import IN_WORKERS


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in `file`, once; `tests` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: str


SILO, HE = "tests/actors/test_silo.py", "tests/he"
LIES = "tests/adversary/test_lying_aggregator.py"
DRIVER = "tests/adversary/test_lying_driver.py"
CHARGE = "        spent = self._books.charge(exchange)  # before the data is touched\n"
COUNT = "        held_out = self._held_out(own, exchange)\n        own.head.at(exchange.round)\n"
RETURNS = "tests/actors/test_returns.py"
ACROSS = "tests/actors/separate/test_federation.py"
TRAIN = (
    "        subset = own.subset(exchange.round)\n"
    "        update = own.trainer.train(\n"
    "            self._model.vector,\n"
    "            exchange.clipping,\n"
    "            exchange.round,\n"
    "            subset,\n"
    "            variates.correction if variates else None,\n"
    "        )\n"
)

MUTANTS = (
    Mutant(
        "a share of data told exactly",
        "actors/work.py",
        "int(self._share * 100) // STEP * STEP",
        "int(self._share * 100)",
        "tests/actors/test_heartbeat.py",
    ),
    Mutant(
        "a share of data told after each batch",
        "actors/work.py",
        "if now - self._moved >= TOLD_S:",
        "if True:",
        "tests/actors/test_heartbeat.py",
    ),
    Mutant(
        "a kept result that another wrote",
        "platform/data/kept_results.py",
        "if hmac.compare_digest(mac, _mac(key, inputs, content)):",
        "if True:",
        "tests/platform/test_kept_results.py",
    ),
    Mutant(
        "a kept result that others can read",
        "platform/data/kept_results.py",
        "own = found.st_uid == os.getuid() and not found.st_mode & 0o077",
        "own = found.st_uid == os.getuid()",
        "tests/platform/test_kept_results.py",
    ),
    Mutant(
        "a link in place of a kept result",
        "platform/data/kept_results.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_RDONLY | os.O_NONBLOCK",
        "tests/platform/test_kept_results.py",
    ),
    Mutant(
        "kept results without an end",
        "platform/data/kept_results.py",
        "        if left < 0:\n",
        "        if False:\n",
        "tests/platform/test_kept_results.py",
    ),
    Mutant(
        "names of kept results that confirm a guess",
        "platform/data/kept_results.py",
        'made = hmac.new(key, of_inputs, "sha256")',
        'made = hmac.new(b"", of_inputs, "sha256")',
        "tests/platform/test_kept_results.py",
    ),
    Mutant(
        "kept results of another RDKit",
        "platform/data/molecule_work.py",
        "return [type(self).__name__, self.settings, RDKIT, str(WORK), digest]",
        "return [type(self).__name__, self.settings, str(WORK), digest]",
        "tests/platform/test_kept_results.py",
    ),
    Mutant(
        "workers that outlive a killed silo",
        "platform/data/worker_process.py",
        "    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)\n",
        "",
        "tests/platform/test_molecule_results.py",
    ),
    Mutant(
        "a silo's word that holds up a run for ever",
        "actors/heartbeat.py",
        "if sign.percent is None or progress.percent > sign.percent:",
        "if True:",
        "tests/actors/test_heartbeat.py",
    ),
    Mutant(
        "a silent silo that is waited for",
        "actors/heartbeat.py",
        "        if not progress.at_work:\n            return\n",
        "",
        "tests/actors/test_heartbeat.py",
    ),
    Mutant(
        "an actor that takes objects",
        "actors/shell.py",
        "[decoded(*pair) for pair in",
        "[decoded(*pair) if type(pair[0]) is bytes else pair[0] for pair in",
        "tests/actors/test_codec.py",
    ),
    Mutant(
        "private tasks in the audit",
        "pipelines/audit/audited.py",
        "labels = fold.labels[:, :, :tasks]",
        "labels = fold.labels",
        "tests/pipelines/audit/test_labelling.py",
    ),
    Mutant(
        "a clip norm dropped where numbers are measured",
        "pipelines/audit/victim.py",
        "if not self.labelling.bounded:",
        "if False:",
        "tests/pipelines/audit/test_labelling.py",
    ),
    Mutant(
        "noise halved",
        "platform/training/local.py",
        "self._plan.update_noise * self._clip_norm,",
        "self._plan.update_noise * self._clip_norm / 2,",
        "tests/platform/test_training.py",
    ),
    Mutant(
        "a fixed batch for a Poisson sample",
        "platform/training/local.py",
        "chances < self._training.sampling_rate",
        "np.sort(chances) < self._training.sampling_rate",
        "tests/platform/test_training.py",
    ),
    Mutant(
        "what is odd about an owner's data told to the driver",
        "actors/joining.py",
        "warnings=() if own.owned else own.data.concerns",
        "warnings=own.data.concerns",
        "tests/platform/test_concerns.py",
    ),
    Mutant(
        "private tasks in the sums that the intervals need",
        "platform/evaluation/tasks.py",
        "            if name in self._shared:\n",
        "            if True:\n",
        "tests/platform/test_tasks.py",
    ),
    Mutant(
        "an interval that leaves out the noise on the counts",
        "platform/evaluation/intervals.py",
        "4 * (1 + fewer) * squared * deviation**2",
        "0 * deviation",
        "tests/platform/test_intervals.py",
    ),
    Mutant(
        "tasks of one silo taken for independent",
        "platform/evaluation/tasks.py",
        "            self._influence[name][records] += of_records\n",
        "            of = self._influence[name]\n"
        "            of[records] = np.hypot(of[records], of_records)\n",
        "tests/platform/test_intervals.py",
    ),
    Mutant(
        "the true size as divisor",
        "platform/training/local.py",
        "rate = self._rate / self._training.expected_batch_size",
        "rate = self._rate / (len(self._data) * self._training.sampling_rate + 1)",
        "tests/platform/test_training.py",
    ),
    Mutant(
        "a private head without noise",
        "platform/training/local.py",
        "            self._noise(gradient)\n            with",
        "            with",
        "tests/actors/test_private_heads.py tests/platform/test_training.py",
    ),
    Mutant(
        "coordinates not cut",
        "platform/privacy/shared_noise.py",
        "noised += np.clip(sums, -cut, cut)",
        "noised += sums",
        "tests/platform/test_shared_noise.py",
    ),
    Mutant(
        "the cut not scaled by the adaptive clip factor",
        "actors/digitiser.py",
        "cut = greatest_sum(self._job) * exchange.clipping",
        "cut = greatest_sum(self._job)",
        SILO,
    ),
    Mutant(
        "a bare sum sent without its share of the noise",
        "actors/digitiser.py",
        "if update.protected_by is not Protection.SHARES_TO_ADD:",
        "if True:",
        SILO,
    ),
    Mutant(
        "a simulation that averages bare sums",
        "platform/training/simulation.py",
        "if any(update.protected_by is Protection.SHARES_TO_ADD for update in updates):",
        "if False:",
        "tests/platform/test_simulation.py",
    ),
    Mutant(
        "a simulated share that is a whole noise too little",
        "platform/privacy/plan.py",
        "self.share / self.clip_norm",
        "self.share / self.clip_norm / 2",
        "tests/platform/test_simulation.py",
    ),
    Mutant(
        "a kept plan used whatever it says",
        "platform/privacy/plan_cache.py",
        "and len(values) == count and holds(values):",
        "and len(values) == count:",
        "tests/platform/test_plan_cache.py",
    ),
    Mutant(
        "a kept plan that others could have written",
        "platform/privacy/plan_cache.py",
        "found.st_uid != os.getuid() or found.st_mode & 0o022 or ",
        "",
        "tests/platform/test_plan_cache.py",
    ),
    Mutant(
        "a silo that is called in any order",
        "actors/silo_state.py",
        "if state not in ALLOWED[method]:",
        "if False:",
        SILO,
    ),
    Mutant(
        "an answer of another kind taken as it is",
        "actors/waiting.py",
        "    if reply.kind is None:\n",
        "    if True:\n",
        "tests/actors/test_failures.py",
    ),
    Mutant(
        "the floor of the count's noise dropped",
        "platform/privacy/plan.py",
        "count_noise=max(own_noise, own.noise_multiplier)",
        "count_noise=own_noise",
        "tests/platform/test_adaptive_clipping.py tests/platform/test_privacy.py",
    ),
    Mutant(
        "one step too few in the accounting",
        "platform/privacy/plan.py",
        "rounds * self._plan.steps_per_round)",
        "rounds * self._plan.steps_per_round - 1)",
        "tests/platform/test_privacy.py tests/platform/test_ledger.py",
    ),
    Mutant(
        "a charge after training",
        "actors/silo.py",
        f"{CHARGE}        charged = time.perf_counter()\n{COUNT}{TRAIN}",
        f"        charged = time.perf_counter()\n{COUNT}{TRAIN}{CHARGE}",
        SILO,
    ),
    Mutant(
        "held-out records counted before their charge",
        "actors/silo.py",
        f"{CHARGE}        charged = time.perf_counter()\n{COUNT}",
        f"{COUNT}{CHARGE}        charged = time.perf_counter()\n",
        SILO,
    ),
    Mutant(
        "require_finite dropped",
        "actors/silo.py",
        "        require_finite(update.values)\n",
        "",
        SILO,
    ),
    Mutant(
        "masks without the roster",
        "he/masks.py",
        "return hashlib.sha256(exchange.digest + view).digest()",
        "return hashlib.sha256(exchange.run.encode() + bytes([exchange.round, exchange.attempt])"
        " + view).digest()",
        f"{HE}/test_masks.py {HE}/test_linear_hash.py",
    ),
    Mutant(
        "a silo outside the roster is allowed",
        "actors/policy.py",
        "self._silo in roster and ",
        "",
        f"{SILO} {DRIVER}",
    ),
    Mutant(
        "an approval that is not asked",
        "actors/admission.py",
        "self.approval = books.approved()",
        "pass",
        DRIVER,
    ),
    Mutant(
        "a name not checked",
        "platform/job/owner.py",
        "if name not in self.file.names:",
        "if False:",
        DRIVER,
    ),
    Mutant(
        "a receipt not checked",
        "he/wire.py",
        "        verify(\n",
        "        (lambda *_: None)(\n",
        f"{HE}/test_wire.py",
    ),
    Mutant(
        "sys.path.insert for append",
        "platform/job/paths.py",
        "sys.path.append(folder)",
        "sys.path.insert(0, folder)",
        DRIVER,
    ),
    Mutant(
        "what a table has instead, in a message",
        "platform/data/at_silo.py",
        'hint = f"{error.hint} {place}',
        'hint = f"{error.hint} {text} {place}',
        "tests/platform/test_at_silo.py",
    ),
    Mutant(
        "what a table has instead, in a file for everybody",
        "platform/data/at_silo.py",
        "os.O_WRONLY, 0o600)",
        "os.O_WRONLY, 0o644)",
        "tests/platform/test_at_silo.py",
    ),
    Mutant(
        "offsets of an Arrow file not checked",
        "platform/data/files/arrow_file.py",
        "        used.validate(full=True)\n",
        "",
        "tests/platform/test_reading.py",
    ),
    Mutant(
        "deleted rows of a Delta table",
        "platform/data/files/parquet_file.py",
        "    _require_plain(path)\n",
        "",
        "tests/platform/test_reading.py",
    ),
    Mutant(
        "byte order of the fold rule",
        "platform/data/split.py",
        '"big") / 2**64',
        '"little") / 2**64',
        "tests/platform/test_features_and_folds.py",
    ),
    Mutant(
        "modules that came with the job",
        "actors/admission.py",
        "            _require_own_installation()\n",
        "",
        "tests/adversary/test_shipped_code.py",
    ),
    Mutant(
        "an installed factory by its own file",
        "platform/state/approved_code.py",
        "    outer = hashlib.sha256()\n    for one in sorted(root",
        "    return _digest(path)\n    outer = hashlib.sha256()\n    for one in sorted(root",
        "tests/adversary/test_shipped_code.py",
    ),
    Mutant(
        "the whole folder is sent",
        "infra/bundle.py",
        "    named = factory_sources(job_file)\n",
        "    folder = job_file.folder\n"
        "    named = [p.relative_to(folder) for p in folder.rglob('*') if p.is_file()]\n",
        "tests/infra/test_submission.py",
    ),
    Mutant(
        "totals are not checked",
        "he/upload.py",
        "if not hashing.holds(words):",
        "if False:",
        f"{LIES} {HE}/test_upload.py",
    ),
    Mutant(
        "the hash without its offset",
        "he/linear_hash.py",
        "return words == added(self.words, self.offset)",
        "return words == self.words",
        f"{LIES} {HE}/test_linear_hash.py",
    ),
    Mutant(
        "one multiplier for all chunks",
        "he/linear_hash.py",
        "of_chunk = self._of_chunks[self._done]",
        "of_chunk = self._of_chunks[0]",
        f"{LIES} {HE}/test_linear_hash.py",
    ),
    Mutant(
        "words that nothing hides",
        "he/masks.py",
        "words = added(words, tuple(pad if first else PRIME - pad for pad in pads))",
        "pass",
        f"{HE}/test_linear_hash.py",
    ),
    Mutant(
        "masks without what was accepted before",
        "he/masks.py",
        "hashlib.sha256(exchange.digest + view)",
        "hashlib.sha256(exchange.digest)",
        f"{LIES} {HE}/test_linear_hash.py",
    ),
    Mutant(
        "keys are kept after a refusal",
        "actors/vault.py",
        "            self._forget()\n            drawn",
        "            drawn",
        LIES,
    ),
    Mutant(
        "a charge before keys are asked for",
        "actors/silo.py",
        "        self._keys.require(exchange)  # before anything is charged\n",
        "",
        LIES,
    ),
    Mutant(
        "a silo that comes back within a round",
        "actors/policy.py",
        "(not self._in_round and roster == ordered and large)",
        "(roster == ordered and large)",
        RETURNS,
    ),
    Mutant(
        "an attempt that begins no round",
        "actors/policy.py",
        "        self._in_round = True\n",
        "",
        RETURNS,
    ),
    Mutant(
        "a state sealed to anybody",
        "actors/joining.py",
        "not self._keys.knows(request.silo, request.identity)",
        "False",
        RETURNS,
    ),
    Mutant(
        "a state from anybody",
        "he/handover.py",
        "if not is_of_the_run(identity):",
        "if False:",
        RETURNS,
    ),
    Mutant(
        "a state whose signature is not checked",
        "he/handover.py",
        '        verify(identity, signature, _signed(self.request, content), "state")\n',
        "",
        RETURNS,
    ),
    Mutant(
        "a state that no pin covers",
        "actors/joining.py",
        "lambda identity: fingerprint(identity) in pins or len(pins) < len(others),",
        "lambda identity: True,",
        RETURNS,
    ),
    Mutant(
        "a size of the model that one silo alone says",
        "actors/agreement.py",
        "    different = set(sizes)\n    if len(different) != 1:",
        "    different = set(sizes)\n    if False:",
        "tests/actors/test_inspection.py",
    ),
    Mutant(
        "a size of the model that a returning silo alone says",
        "actors/returns.py",
        "        same_size([inspection.parameters, values])\n",
        "",
        RETURNS,
    ),
    Mutant(
        "a state that nobody requested",
        "actors/joining.py",
        "        if handover is None:",
        "        if False:",
        RETURNS,
    ),
    Mutant(
        "a state of any shape",
        "actors/returning.py",
        " or not _fits(own, kept)",
        "",
        RETURNS,
    ),
    Mutant(
        "an approval for any table",
        "actors/admission.py",
        "            require_dataset(self.approval, fingerprints)\n",
        "",
        ACROSS,
    ),
    Mutant(
        "an approval for any version",
        "actors/admission.py",
        "            require_version(self.approval, __version__)\n",
        "",
        ACROSS,
    ),
    Mutant(
        "the digest believed that an announcement brings",
        "actors/door.py",
        "values = {name: _rebuilt(getattr(message, name)) for name in names}",
        "values = {name: getattr(message, name) for name in names}",
        DRIVER,
    ),
    Mutant(
        "a silo of an agent without an approval",
        "actors/separate/agent.py",
        'if received is None or received.verdict != "approved":',
        "if received is None:",
        ACROSS,
    ),
    Mutant(
        "an approval that outlives its proposal",
        "actors/separate/inbox.py",
        '                one = replace(one, verdict="pending", reason="", weights="")\n',
        "                pass\n",
        ACROSS,
    ),
    Mutant(
        "the rule of a refusal told",
        "actors/separate/inbox.py",
        "if one.by_rule else one.reason",
        "if False else one.reason",
        ACROSS,
    ),
    Mutant(
        "what was accepted is not taken back",
        "actors/vault.py",
        "            self._view = mark[1]\n",
        "            pass\n",
        f"{SILO} {LIES}",
    ),
    Mutant(
        "heads with anything in them",
        "he/wire.py",
        " or _head(metadata) != head:",
        ":",
        f"{HE}/test_wire.py",
    ),
    Mutant(
        "a revoked approval",
        "platform/state/approval.py",
        "if one.id not in revoked]",
        "if True]",
        "tests/pipelines/test_approve.py",
    ),
    Mutant(
        "an approval that nobody was asked for",
        "pipelines/cli/options.py",
        "    if not _is_terminal():",
        "    if not _is_terminal():\n        return\n    if False:",
        "tests/pipelines/test_approve.py",
    ),
    Mutant(
        "a running run deleted",
        "pipelines/run/past_runs.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n            aside",
        "            aside",
        "tests/pipelines/test_runs.py",
    ),
    Mutant(
        "a deleted run resumed",
        "pipelines/run/run_log.py",
        "if not path.exists():",
        "if False:",
        "tests/pipelines/test_runs.py",
    ),
    Mutant(
        "a table's fingerprint in MLflow",
        "actors/books.py",
        "return self.ledger.chain.head()",
        'return f"{self.ledger.chain.head()} {self._dataset.fingerprint}"',
        "tests/pipelines/test_train.py",
    ),
    *(
        Mutant(*one)
        for one in (
            *BETWEEN_CLUSTERS,
            *IN_EVALUATION,
            *IN_PREDICTIONS,
            *IN_TABLES,
            *IN_LARGE_UPDATES,
            *IN_THE_AVERAGE,
            *IN_SIMULATIONS,
            *IN_THE_AUDIT,
            *IN_CLIPPING,
            *IN_GRAPHS,
            *IN_OVERLAPS,
            *IN_REGRESSIONS,
            *IN_ROUNDS,
            *IN_STATISTICS,
            *IN_TREES,
            *IN_MODELS,
            *IN_WORKERS,
            *IN_OWN_CODE,
        )
    ),
)


def copied(into: Path) -> Path:
    """The checkout's files, and nothing that is ignored."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_file():
            shutil.copy(source, target)
    return into


def passes(folder: Path, tests: str) -> bool:
    """Whether those tests pass on the copy."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *tests.split(),
    ]
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"pytest could not run {tests}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode == 0


def main(words: list[str]) -> int:
    """Try the mutants; the exit status is how many lived."""
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    lived = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        folder = copied(Path(made))
        for mutant in chosen:
            path = folder / mutant.file
            whole = path.read_text(encoding="utf-8")
            if whole.count(mutant.old) != 1:
                raise SystemExit(
                    f"{mutant.name}: {mutant.file} has its text {whole.count(mutant.old)} times"
                )
            path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
            alive = passes(folder, mutant.tests)
            path.write_text(whole, encoding="utf-8")
            lived += [mutant.name] if alive else []
            print(f"{'LIVED' if alive else 'died '}  {mutant.name}", flush=True)
        for tests in dict.fromkeys(mutant.tests for mutant in chosen):
            if not passes(folder, tests):
                raise SystemExit(f"{tests} fail without any mutant, and so say nothing")
    print(f"{len(chosen) - len(lived)} of {len(chosen)} died")
    return len(lived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
