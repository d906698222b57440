"""Faults in large updates and in rounds' subsets, planted by `tests/mutants.py`."""

from __future__ import annotations

SUBSET = "tests/platform/test_subset.py"
SENT = "            values=values,\n        )\n"
KEPT = SENT + (
    "        unsent = self._update.unsent\n"
    "        self._models = (*self._models[:-1], replace(self._model, unsent=unsent))\n"
)
FEEDBACK = "tests/actors/test_error_feedback.py"

IN_LARGE_UPDATES = (
    (
        "subset: of a silo's own",
        "actors/prepared.py",
        "Subset(self.terms, round, self.values, share)",
        "Subset(self.terms + self.data.fingerprint, round, self.values, share)",
        SUBSET,
    ),
    (
        "subset: the same in every round",
        "actors/prepared.py",
        "Subset(self.terms, round, self.values, share)",
        "Subset(self.terms, 1, self.values, share)",
        SUBSET,
    ),
    (
        "subset: gradients outside dropped after clipping",
        "platform/training/local.py",
        "self._clipped(features, labels, self._clip_norm, self._chosen)",
        "self._clipped(features, labels, self._clip_norm)",
        SUBSET,
    ),
    (
        "subset: noise on what is outside",
        "platform/training/local.py",
        "self._noise(gradient, chosen)",
        "self._noise(gradient)",
        SUBSET,
    ),
    (
        "subset: momentum moves what is outside",
        "platform/training/server_optimizer.py",
        "    for where, at in subset.groups(*mapped) if subset else whole:\n",
        "    for where, at in ((w, w) for w in blocks(model.size)):\n",
        SUBSET,
    ),
    (
        "subset: norms of more than what is sent",
        "platform/training/clipping/terms.py",
        "((a @ self._mask[some].double().T) * d[:, some])",
        "((a @ torch.ones_like(self._mask[some]).double().T) * d[:, some])",
        SUBSET,
    ),
    (
        "subset: a size that the driver chooses",
        "actors/silo.py",
        "now, values = self._model, own.sent_values(exchange.round) if purpose",
        "now, values = self._model, exchange.values if purpose",
        SUBSET,
    ),
    (
        "vectors: a file with holes",
        "platform/training/vector_room.py",
        "os.posix_fallocate(file.fileno(), 0, size)",
        "os.ftruncate(file.fileno(), size)",
        "tests/platform/test_vector_room.py",
    ),
    (
        "error feedback: kept of an update whose total was not applied",
        "actors/silo.py",
        SENT,
        KEPT,
        FEEDBACK,
    ),
    (
        "error feedback: told to a silo that comes back",
        "actors/returning.py",
        "            unsent=None,\n",
        "            unsent=now.unsent,\n",
        FEEDBACK,
    ),
    (
        "error feedback: under differential privacy",
        "platform/job/schema.py",
        'if self.encryption.error_feedback and self.privacy.noise != "none":',
        "if False:",
        FEEDBACK,
    ),
    (
        "clipping: squares of a long gradient added up in float32",
        "platform/training/clipping/clipped.py",
        "    if not long:\n",
        "    if True:\n",
        "tests/platform/test_clipping.py",
    ),
)
