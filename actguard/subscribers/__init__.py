"""Subscribers: everything that leaves the process happens here, driven by events alone."""
