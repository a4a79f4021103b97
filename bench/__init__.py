"""Measures pmkv, beside a redis-server where there is one: `make bench`, or `python -m bench network --rounds 3`."""
