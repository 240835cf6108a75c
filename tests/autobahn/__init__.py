"""The Autobahn test suite, and a server that it can test: see ``README.md`` here."""
