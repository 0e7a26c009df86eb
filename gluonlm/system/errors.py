"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Bad input, settings or surroundings: one sentence that says what is wrong and what to do about it.

    Commands print it as ``error: <sentence>`` and exit with code 2, without a traceback.
    """
