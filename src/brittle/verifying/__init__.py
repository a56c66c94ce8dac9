"""The kinds of check of ``brittle verify``, one a file."""
