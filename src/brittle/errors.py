"""The exceptions of brittle: each says what was expected, what came, and what to do."""


class InputError(ValueError):
    """The question cannot be asked as given. Reads ``what: expected X, got Y; do Z``."""

    def __init__(self, what: str, expected: str, got: object, do: str) -> None:
        super().__init__(f"{what}: expected {expected}, got {got}; {do}")
        self.what, self.expected, self.got, self.do = what, expected, got, do

    def __reduce__(self):
        return InputError, (self.what, self.expected, self.got, self.do)


class NotCertified(Exception):
    """A bound cannot speak about this module. ``reason`` completes "not certified: ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not certified: {reason}")
        self.reason = reason

    def __reduce__(self):
        return NotCertified, (self.reason,)


class BracketError(ArithmeticError):
    """A proved end lies beyond a witnessed end: one of the two sides has a bug."""
