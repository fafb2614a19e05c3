"""`qsample study`: a grid of runs of `qsample train` with one budget and one report."""
