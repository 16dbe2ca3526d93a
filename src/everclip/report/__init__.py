"""What a finished run says: its figures, plots, one HTML page, and tables that compare runs.

Everything here reads run directories, their `results.json` above all, and knows no method and no training.
"""

from everclip.report.compare import compare
from everclip.report.losses import read_losses
from everclip.report.page import render
from everclip.report.results import load_run, summarize
from everclip.report.table import Comparison

__all__ = ["Comparison", "compare", "load_run", "read_losses", "render", "summarize"]
