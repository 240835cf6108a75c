"""Dialects: how different clients spell the same messages.

A dialect is a module with ``decode(payload, at) -> (message, end)`` and
``encode(message) -> bytes``. Payloads are the contents of WebSocket messages.
"""
