"""The report: HTML pages about a dataset and its objects, and about the run trained on it and the truth behind it."""

from pipeline.report.page import write_report
from pipeline.report.pages import write_object_pages, write_pages
from pipeline.report.pictures import write_pictures

__all__ = ["write_object_pages", "write_pages", "write_pictures", "write_report"]
