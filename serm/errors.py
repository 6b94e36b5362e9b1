"""The errors that a person can mend."""


class UserError(Exception):
    """A mistake in what SERM was given: one sentence that names what is wrong, where, and the fix.

    The command line prints it without a traceback and exits with code 2.
    """
