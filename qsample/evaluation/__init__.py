"""Is it right? Likelihoods, and verdicts on samples."""
