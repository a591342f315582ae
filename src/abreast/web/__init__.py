"""Runs as files: JSON with ledgers (`saved.py`), one self-contained page (`page.py`), a trace (`trace.py`).

A comparison is saved as plain values, and everything that shows one, in the terminal or on the page, reads those: what
is drawn today can be drawn again from the file.
"""
