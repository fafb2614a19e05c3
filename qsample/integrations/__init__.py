"""qsample in other libraries' hands."""
