"""Reports on runs and saved measurements: a page to look at, a table for the terminal."""

from neuralcollapse.report.html import write_prediction, write_report
from neuralcollapse.report.measured_page import write_measurements
from neuralcollapse.report.text import final_table

__all__ = ["final_table", "write_measurements", "write_prediction", "write_report"]
