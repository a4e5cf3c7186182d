"""The report of a run: one self-contained HTML page. Reads a run directory, computes nothing."""

from twoviews.report.page import write_report

__all__ = ["write_report"]
