"""The parts that a silo keeps to itself: its private head, its whole model and figures by task."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from blindsum.platform.errors import DataError
from blindsum.platform.evaluation.scores import Figures
from blindsum.platform.job.paths import MODEL
from blindsum.platform.training.models import get_private, private_parameters, set_private


class PrivateHead:
    """The private parameters of one silo's model in one run.

    Args:
        folder: the folder for `model.blindsum` and `tasks.csv`, in the silo's state folder.
        release: returns the file of the whole model after a round.
    """

    def __init__(self, model: nn.Module, folder: Path, release: Callable[[int], bytes]) -> None:
        self._model, self._folder, self._release, self._round = model, folder, release, 0
        self._own = private_parameters(model)
        self._before = [p.detach().clone() for p in self._own]

    @property
    def state(self) -> tuple[npt.NDArray[np.float32], ...]:
        """The head's current parameters."""
        return get_private(self._model)

    @state.setter
    def state(self, state: tuple[npt.NDArray[np.float32], ...]) -> None:
        set_private(self._model, state)

    def at(self, round: int) -> None:
        """Begin an attempt at a round.

        The first attempt starts from the current head, a further one from where the first started.
        """
        with torch.no_grad():
            if round == self._round:
                for p, before in zip(self._own, self._before, strict=True):
                    p.copy_(before)
            else:
                self._before = [p.detach().clone() for p in self._own]
        self._round = round

    def keep(self, round: int, figures: Mapping[str, Figures]) -> None:
        """Write the whole model (shared part and head) and the held-out figures of each task, with
        mode 0600.

        Args:
            figures: held-out figures by task. Nothing is written for a job without tasks.

        Raises:
            DataError: the files cannot be written, for example because the disk is full.
        """
        if not figures and not self._own:
            return
        names = list(dict.fromkeys(name for one in figures.values() for name in one))
        text = io.StringIO()
        table = csv.DictWriter(text, ["round", "task", *names])
        table.writeheader()
        for task, found in figures.items():
            rounded = {name: f"{value:.6g}" for name, value in found.items()}
            table.writerow({"round": round, "task": task, **rounded})
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(self._folder / MODEL, self._release(round))
            _write(self._folder / "tasks.csv", text.getvalue().encode())
        except OSError as error:
            raise DataError(
                f"this silo's own model and figures cannot be written in {self._folder}: "
                f"{os.strerror(error.errno or 0)}",
                "Make room there, or set silos.state to another folder.",
            ) from None


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    opened = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(opened, "wb") as file:
        file.write(content)
    partial.rename(path)
