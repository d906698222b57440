"""Faults in predictions and their calibration, planted by `tests/mutants.py`."""

from __future__ import annotations

CALIBRATION = "tests/platform/test_calibration.py"
PREDICT = "tests/pipelines/test_predict.py"

IN_PREDICTIONS = (
    (
        "calibration: judged on what was fitted",
        "platform/prediction/calibration.py",
        "fitted(logits[~test], true[~test])[0](logits[test])",
        "fitted(logits, true)[0](logits[test])",
        CALIBRATION,
    ),
    (
        "calibration: an order turned around",
        "platform/prediction/calibration.py",
        "bounds=[(_LEAST_SLOPE, None), (None, None)],",
        "bounds=[(None, None), (None, None)],",
        CALIBRATION,
    ),
    (
        "calibration: figures of the labels in the file",
        "pipelines/prediction/predict.py",
        "{name: one.parameters() for name, one in of.of.items()}",
        "{name: one.figures() for name, one in of.of.items()}",
        PREDICT,
    ),
    (
        "calibration: a wrong label's row in the message",
        "platform/prediction/labelled.py",
        '        at_silo=f"rows',
        '        silo=f"rows',
        CALIBRATION,
    ),
    (
        "calibration: too few labels",
        "platform/prediction/calibration.py",
        "    if len(true) < LEAST_LABELS:",
        "    if len(true) < 0:",
        CALIBRATION,
    ),
    (
        "calibration: probabilities that do not say so",
        "platform/prediction/predictor.py",
        'f"{CALIBRATED}probability"',
        '"probability"',
        PREDICT,
    ),
)
