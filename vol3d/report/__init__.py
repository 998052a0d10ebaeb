"""What a person looks at: previews, curves, tables, the record of a run. Writes image and text files.

May import `io`, `metrics`, `volume` and `errors`. matplotlib, rich and TensorBoard are loaded when something is drawn.
"""

from vol3d.report.board import Board, open_tensorboard
from vol3d.report.boxplot import Panel, boxplot_png
from vol3d.report.curves import curves_png
from vol3d.report.metrics import MetricsFile, read_metrics
from vol3d.report.preview import Layer, preview_png
from vol3d.report.record import RECORD, read_record, write_record
from vol3d.report.reliability import reliability_png
from vol3d.report.scores import Metric, ScoreRow, score_table, scores_csv
from vol3d.report.uncertainty import uncertainty_png

__all__ = [
    "RECORD",
    "Board",
    "Layer",
    "Metric",
    "MetricsFile",
    "Panel",
    "ScoreRow",
    "boxplot_png",
    "curves_png",
    "open_tensorboard",
    "preview_png",
    "read_metrics",
    "read_record",
    "reliability_png",
    "score_table",
    "scores_csv",
    "uncertainty_png",
    "write_record",
]
