"""Measure our server beside its peers: `make bench`."""
