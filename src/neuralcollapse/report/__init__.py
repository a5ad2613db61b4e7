"""Reports on runs: one page to look at, one table for the terminal. Reads run folders only."""

from neuralcollapse.report.html import write_prediction, write_report
from neuralcollapse.report.text import final_table

__all__ = ["final_table", "write_prediction", "write_report"]
