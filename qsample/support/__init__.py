"""What every room of the house stands on."""
