"""Where a problem goes on a chip, and how far it fits its ranges."""
