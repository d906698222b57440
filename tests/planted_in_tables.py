"""Faults in what is said of a silo's table, as `tests/mutants.py` plants them: name, file, old,
new, tests."""

REJECTED, FOLDS = "tests/platform/test_rejected_rows.py", "tests/platform/test_random_folds.py"
LABELS = "tests/platform/test_labels.py"
KEPT = "tests/platform/test_kept_results.py"
COLUMNS = "tests/platform/test_gaps_and_categories.py"
PATTERNS = "tests/platform/test_name_patterns.py"
IMAGES = "tests/platform/test_images.py"
SPARSECHEM = "tests/platform/preparation/test_sparsechem.py"
TUNER = "tests/platform/preparation/test_tuner.py"

IN_TABLES = (
    (
        "an array from a pickle",
        "platform/data/preparation/sparse_files.py",
        "        found = np.load(path, allow_pickle=False)\n",
        "        found = np.load(path, allow_pickle=True)\n",
        SPARSECHEM,
    ),
    (
        "a sparse matrix from a pickle",
        "platform/data/preparation/sparse_files.py",
        "with np.load(path, allow_pickle=False) as file",
        "with np.load(path, allow_pickle=True) as file",
        SPARSECHEM,
    ),
    (
        "a position outside a matrix",
        "platform/data/preparation/sparse_files.py",
        "int(found.max()) >= most",
        "int(found.max()) > 2**62",
        SPARSECHEM,
    ),
    (
        "an imported table that others can read",
        "pipelines/preparation/import_sparsechem.py",
        "os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)",
        "os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)",
        SPARSECHEM,
    ),
    (
        "imported thresholds that others can read",
        "pipelines/preparation/imported_files.py",
        "os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)",
        "os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)",
        TUNER,
    ),
    (
        "a silo's own task in the public recipe",
        "platform/data/preparation/tuner/imported.py",
        "_recipe(parameters, made.shared())",
        "_recipe(parameters, made.shared() | {r['task']: r for r in rows})",
        TUNER,
    ),
    (
        "a rejected value in the error",
        "platform/data/labels.py",
        'fault="values that are not in data.target.classes "',
        'fault=f"values {column.to_pylist()} that are not in data.target.classes "',
        REJECTED,
    ),
    (
        "a rejected row's number in the error",
        "platform/data/rejected_rows.py",
        "            mends[one.mend] = None\n",
        '            mends[f"{one.mend} {np.flatnonzero(one.rows) + 1}"] = None\n',
        REJECTED,
    ),
    (
        "the number of columns with gaps",
        "platform/data/rejected_rows.py",
        'names.append("others")',
        'names.append(f"{len(distinct) - MOST_NAMES} others")',
        REJECTED,
    ),
    (
        "a list of rejected rows that others can read",
        "platform/data/at_silo.py",
        "os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)",
        "os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)",
        REJECTED,
    ),
    (
        "a list of rejected rows with its old mode",
        "platform/data/at_silo.py",
        "        place.unlink(missing_ok=True)  # a leftover file would keep its old mode\n",
        "        pass\n",
        REJECTED,
    ),
    (
        "a private task's rejected rows, by name",
        "platform/data/rejected_rows.py",
        "        with without_names(place):\n            refuse(self._of_own.values()",
        "        if True:\n            refuse(self._of_own.values()",
        REJECTED,
    ),
    (
        "a count of private tasks' labels",
        "platform/data/usable.py",
        "shared.left_out), of_own.rejected",
        "shared.left_out + of_own.left_out), of_own.rejected",
        REJECTED,
    ),
    (
        "a nearly named class in the error",
        "platform/data/rejected_rows.py",
        "            columns.setdefault(one.fault, []).append(one.column)\n",
        "            columns.setdefault(one.reason or one.fault, []).append(one.column)\n",
        LABELS,
    ),
    (
        "a label that decides a record's fold",
        "platform/data/record_keys.py",
        "for name in sorted({column.name for column in features.columns()}):",
        "for name in sorted(table.column_names):",
        FOLDS,
    ),
    (
        "a fold that depends on the order of columns",
        "platform/data/record_keys.py",
        "for name in sorted({column.name for column in features.columns()}):",
        "for name in [column.name for column in features.columns()]:",
        FOLDS,
    ),
    (
        "molecules whose folds follow from other records",
        "platform/data/usable.py",
        "list(compress(made.keys, left)) if made.keys else made.keys",
        "made.keys",
        FOLDS,
    ),
    (
        "one kind of folds read by another's keys",
        "platform/data/molecule_work.py",
        "        return self.kind\n",
        '        return ""\n',
        KEPT,
    ),
    (
        "a value beyond the categories in the error",
        "platform/data/feature_columns.py",
        'fault="values that are not among its categories",',
        'fault=f"{set(column.to_pylist())} that are not among its categories",',
        COLUMNS,
    ),
    (
        "text that is no date in the error",
        "platform/data/feature_columns.py",
        'fault="text that is not a date",',
        'fault=f"text that is not a date, {texts}",',
        COLUMNS,
    ),
    (
        "a key of folds with gaps",
        "platform/data/usable.py",
        "    return [*found, *of_folds, *gaps(table.select(keys))]\n",
        "    return [*found, *of_folds]\n",
        COLUMNS,
    ),
    (
        "a dataset that is another one by what its gaps count as",
        "platform/data/feature_columns.py",
        "        return column.cast(pa.float64()) if pa.types.is_null(column.type) else column\n",
        "        return column.cast(pa.float64()).fill_null(50)\n",
        COLUMNS,
    ),
    (
        "a list of names that nobody agreed on",
        "platform/job/name_patterns.py",
        "(found := hashlib.sha256(text).hexdigest()) != digest.lower()",
        "(found := hashlib.sha256(text).hexdigest()) == digest.upper()",
        PATTERNS,
    ),
    (
        "the share of a table in parts of a known size",
        "platform/data/usable.py",
        "        teller.at_work()\n        with fitting(path):\n",
        "        computing.told(share)\n        with fitting(path):\n",
        "tests/platform/test_large_tables.py",
    ),
    (
        "a picture of any size decoded",
        "platform/data/image_features.py",
        "if picture.width * picture.height > MOST_PIXELS:",
        "if picture.width < 0:",
        IMAGES,
    ),
    (
        "files outside of the table's folder",
        "platform/data/image_features.py",
        "path.is_relative_to(folder.resolve()) and path.is_file()",
        "path.is_file()",
        IMAGES,
    ),
    (
        "weights of another digest than the job's",
        "platform/job/paths.py",
        'if hashlib.file_digest(file, "sha256").hexdigest() == sha256:',
        'if hashlib.file_digest(file, "sha256").hexdigest():',
        "tests/platform/test_pretrained.py",
    ),
)
