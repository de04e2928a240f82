"""Where rule state lives."""
