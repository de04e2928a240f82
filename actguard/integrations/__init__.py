"""Provider SDKs: where to hook them, and how to read their requests and answers."""
