"""Dialects: how different clients spell the same messages.

A dialect has ``decode(payload, at) -> (message, end)``, and ``encode(message)`` that
returns bytes.
Payloads are the contents of WebSocket messages.
"""
