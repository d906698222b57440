"""Render the silo's private page: true records beside the recovered and the guessed ones.

Chemists cannot read a molecule off its features. For molecules the page therefore draws the silo's
molecule whose features are nearest to the recovered ones.
"""

from __future__ import annotations

import html

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

from blindsum.pipelines.audit.attacks.reconstruction import Example
from blindsum.pipelines.audit.outcome import Audit
from blindsum.pipelines.audit.pictures import Pictures, pictures_of
from blindsum.pipelines.audit.report.drawn import grid
from blindsum.pipelines.audit.scores import is_binary
from blindsum.pipelines.show.page import PAGE, embedded

# RDKit writes the SMILES that it cannot read to stderr.
rdBase.DisableLog("rdApp.*")

WIDTH, HEIGHT = 190, 120


def as_private_page(found: Audit) -> str:
    """Return true, recovered and guessed records side by side, as HTML. Private to the silo."""
    parts = [
        (
            "<h1>Recovered records</h1><p class=note>Private: this page shows records of silo "
            f"{html.escape(found.silo)}. Keep it in the silo's state folder.</p>"
        )
    ]
    if found.molecules:
        parts.append(
            "<p>The columns recovered and guessed show the silo's molecule with the nearest "
            "features. Below each is how close the recovered or guessed features are to the true "
            "ones: the Tanimoto similarity of bits, or the root mean square difference.</p>"
        )
    pictures = pictures_of(found.job)
    for example in found.examples:
        parts.append(f"<h2>{html.escape(example.title)}</h2>")
        if found.molecules and example.rows[0]:
            parts.append(_structures(example, found.molecules))
        else:
            parts.append(_pictures(example, pictures) if pictures else _features(example))
    return PAGE.format(title="Recovered records", body="\n".join(parts))


def _structures(example: Example, molecules: list[str]) -> str:
    rows = []
    nearest = zip(*example.rows, strict=True)
    for i, (true, recovered, guessed) in enumerate(nearest):
        said = ["record", *(_close(example, i, shown) for shown in ("recovered", "guessed"))]
        drawn = [_svg(molecules[row]) for row in (true, recovered, guessed)]
        same = ["", *(" class=bad" if row == true else "" for row in (recovered, guessed))]
        rows.append(
            "".join(
                f"<td{mark}>{svg}<br><small>{text}</small></td>"
                for svg, text, mark in zip(drawn, said, same, strict=True)
            )
        )
    head = "<tr><th>true</th><th>recovered</th><th>guessed</th></tr>"
    return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _close(example: Example, i: int, shown: str) -> str:
    true, other = example.true[i], getattr(example, shown)[i]
    if is_binary(example.true):
        a, b = true > 0.5, other > 0.5
        return f"Tanimoto {(a & b).sum() / max((a | b).sum(), 1):.2f}"
    return f"RMS difference {np.sqrt(((true - other) ** 2).mean()):.2g}"


def _svg(smiles: str) -> str:
    molecule = Chem.MolFromSmiles(smiles)
    drawer = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule)
    drawer.FinishDrawing()
    text: str = drawer.GetDrawingText()
    return text[text.index("<svg") :]


def _pictures(example: Example, pictures: Pictures) -> str:
    shown = (("true", example.true), ("recovered", example.recovered), ("guessed", example.guessed))
    return grid([(name, pictures.pixels(records)) for name, records in shown])


def _features(example: Example) -> str:
    picture = Picture(figsize=(9, 1.6), layout="constrained")
    FigureCanvasAgg(picture)
    low, high = float(example.true.min()), float(example.true.max())
    shown = (("true", example.true), ("recovered", example.recovered), ("guessed", example.guessed))
    for axis, (name, records) in zip(picture.subplots(1, 3), shown, strict=True):
        axis.imshow(np.clip(records, low, high), aspect="auto", vmin=low, vmax=high, cmap="viridis")
        axis.set_title(f"{name}: records down, features across", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    return embedded(picture)
