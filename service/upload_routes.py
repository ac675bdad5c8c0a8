"""The addresses that files are posted to, as the patterns of their routes: no name that a client made up gets into metrics."""

import re

PARAMETER = re.compile(r"\\{\w+\\}")  # as re.escape leaves it


class UploadRoutes:
    """Patterns such as `/v1/classify` and `/v2/models/{model}/infer`."""

    def __init__(self, *patterns: str) -> None:
        self._exact = frozenset(pattern for pattern in patterns if "{" not in pattern)
        self._others = [(re.compile(PARAMETER.sub("[^/]+", re.escape(each))), each) for each in patterns if "{" in each]

    def pattern_of(self, path: str) -> str | None:
        """The pattern that an address is of, None if no file is posted there."""
        if path in self._exact:
            return path
        return next((pattern for address, pattern in self._others if address.fullmatch(path)), None)
