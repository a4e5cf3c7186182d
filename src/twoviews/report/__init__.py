"""The report of a run, or of several: one self-contained HTML page. Reads a run directory, computes nothing."""

from twoviews.report.page import write_report
from twoviews.report.runs import write_runs_page

__all__ = ["write_report", "write_runs_page"]
