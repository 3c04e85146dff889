"""The base of every error that a user can mend."""


class FaceLlavaError(ValueError):
    """An input that cannot be used; its message is one line that names the input, the cause and the remedy."""
