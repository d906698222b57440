"""Faults planted in a round's exchange, in its books and in its ciphertexts: each must make a test
fail."""

BOOKS, LOG = "actors/books.py", "platform/state/signed_log.py"
OF_BOOKS, OF_LOG = "tests/actors/test_books.py", "tests/platform/test_audit_log.py"
OF_CIPHER, OF_PACKING = "tests/he/test_cipher.py", "tests/he/test_packing.py"
OF_PARAMETERS, OF_SILO = "tests/he/test_parameters.py", "tests/actors/test_silo.py"

IN_ROUNDS = (
    (
        "books: an upload that is not noted",
        BOOKS,
        'self._audit.note_all(*attempt, {"charged": charged, "sent": sent})',
        'self._audit.note_all(*attempt, {"charged": charged})',
        OF_BOOKS,
    ),
    (
        "logs: a newest row without a signature",
        LOG,
        "if signature == _FOLLOWING and not last and rows[expected][5] == signer:",
        "if signature == _FOLLOWING and (last or rows[expected][5] == signer):",
        OF_LOG,
    ),
    (
        "logs: a joint signature of other rows",
        LOG,
        "return hash_ in hashes and self._signer.holds(",
        "return self._signer.holds(",
        OF_LOG,
    ),
    (
        "zeros: an encryption of zero used twice",
        "he/zeros.py",
        "return self._ready.pop()",
        "return self._ready[-1]",
        OF_CIPHER,
    ),
    (
        "coefficients: more bits left out than sums bear",
        "he/parameters.py",
        "if cut + _DEVIATIONS * spread <= room:",
        "if cut + spread <= 8 * room:",
        OF_PARAMETERS,
    ),
    (
        "reals: a scale at which sums wrap",
        "he/parameters.py",
        "return (PRIME // 2) // ((silos << (real_bits - 1)) + 1)",
        "return PRIME // ((silos << (real_bits - 1)) + 1)",
        OF_PARAMETERS,
    ),
    (
        "coefficients: a sum beyond what n silos reach",
        "he/cipher.py",
        "small = max(int(rounded.max()), -int(rounded.min())) <= self._greatest",
        "small = True",
        OF_CIPHER,
    ),
    (
        "counts: a sum that no honest silos have",
        "he/packing.py",
        "if counts.size and (int(counts.max()) > reach or int(counts.min()) < -reach):",
        "if False:",
        OF_PACKING,
    ),
    (
        "counts: as many as the driver says",
        "actors/policy.py",
        '("number of counts", at.counts == counts, at.counts, counts),',
        '("number of counts", True, at.counts, counts),',
        OF_SILO,
    ),
    (
        "evaluation: exact counts of fewer silos than all",
        "platform/evaluation/figures.py",
        "(tuple(roster) == job.roster or job.noises_held_out)",
        "True",
        "tests/platform/test_metrics.py",
    ),
)
