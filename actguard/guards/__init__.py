"""Guards: one guard, one file. Each validates, asks a rule and announces an event."""
