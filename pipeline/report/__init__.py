"""The report: HTML pages about a dataset and its objects, and about the run trained on it and the truth behind it."""

from pipeline.report.page import write_report
from pipeline.report.pages import write_object_pages, write_pages

__all__ = ["write_object_pages", "write_pages", "write_report"]
