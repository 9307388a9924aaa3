"""What a person looks at after a run: one HTML page, one table for the terminal, a note for each result."""

from lemur.report.page import write_report
from lemur.report.summaries import markdown_summary, summary, summary_table

__all__ = ["markdown_summary", "summary", "summary_table", "write_report"]
