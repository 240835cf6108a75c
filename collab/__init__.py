"""A collaborative-editing server for Yjs clients, on one port, with a durable log."""

__version__ = "0.1.0"
