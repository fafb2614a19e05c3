"""qsample."""
