"""Compiled models behind one protocol: patterns in, patches out."""
