"""Bytes in, sealed bytes out: no files, no clock. The only room that imports nacl, argon2 or cffi. See FORMAT.md."""
