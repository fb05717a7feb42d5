"""The report: one HTML page about a dataset, and about the run trained on it and the truth behind it where given."""

from pipeline.report.page import write_report

__all__ = ["write_report"]
