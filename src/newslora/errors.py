"""The one exception that newslora raises for what the user can put right."""


class NewsloraError(Exception):
    """The user's input is at fault.

    The message is one line: what is wrong, where (``file:line`` for a row of a table), and what would be right.
    The command line prints it as ``error: …`` and leaves with status 2.
    """


class Diverged(NewsloraError):
    """Training has left the finite numbers: these settings do not work on these rows."""


class Lost(NewsloraError):
    """Another process of the run was lost; the run can be gone on with."""
