"""Rules: state and `now` in, state and decision out. No await, lock, clock, logging or I/O."""
