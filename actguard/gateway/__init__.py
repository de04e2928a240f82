"""The gateway: wire format and transport."""
