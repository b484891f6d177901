"""Why a file cannot be used."""


class Unreadable(Exception):  # noqa: N818 - named for what it is
    """A file cannot be used. The message has neither the file's name nor any of its content."""


TOO_LITTLE_MEMORY = "needs more memory than there is, or is damaged; try fewer --workers"
