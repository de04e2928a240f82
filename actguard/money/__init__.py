"""Money: what a provider call used, and what that costs."""
