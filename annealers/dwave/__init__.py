"""D-Wave processors: problems laid on a chip, scaled into its ranges, sent, and read back."""
