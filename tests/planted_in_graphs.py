"""Faults in models of molecular graphs, as `tests/mutants.py` plants them: name, file, old, new,
tests."""

MODEL, DATA = "platform/training/graphs.py", "platform/data"
MESSAGES, GRAPHS = "tests/platform/test_dmpnn.py", "tests/platform/test_graphs.py"

IN_GRAPHS = (
    (
        "messages that cross from one record to the others",
        MODEL,
        "torch.arange(ends.shape[0], device=ends.device).mul(self._places)",
        "torch.zeros(ends.shape[0]).long()",
        MESSAGES,
    ),
    (
        "a molecule's aggregate over the atoms of its batch",
        MODEL,
        "        total: Tensor = (atoms * graphs.is_atom.unsqueeze(2)).sum(1)\n",
        "        total: Tensor = atoms.sum(1)\n",
        MESSAGES,
    ),
    (
        "graphs whose bonds lead to atoms that are not there",
        MODEL,
        "is_bond = (of_bonds[..., 2] > 0) & there\n",
        "is_bond = of_bonds[..., 2] > 0\n",
        MESSAGES,
    ),
    (
        "molecules of more atoms than the job allows",
        f"{DATA}/molecule_work.py",
        "if molecule.GetNumAtoms() > size.atoms or molecule.GetNumBonds() > size.bonds:",
        "if False:",
        GRAPHS,
    ),
)
