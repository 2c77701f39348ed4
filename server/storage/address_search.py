r"""Finding an address in what was sent, whether its characters are escaped or not.

Any character of a JSON string may be written as an escape: some writers send `+` as `\u002B`. The escapes are matched
in the text itself, not in decoded values: so requests that cannot be decoded are searched as well, as are keys,
properties with the same name, and JSON in strings of JSON, which has more backslashes.
"""

from __future__ import annotations

import re
from typing import Final

_MAX_BACKSLASHES: Final = 4
"""Those of JSON within two more strings of JSON. Without a limit, a text of backslashes would take quadratic time."""

_ESCAPED_THEMSELVES: Final = frozenset('"\\/')


class AddressSearch:
    """Searches texts for one address, in any case."""

    def __init__(self, email: str) -> None:
        self._email = email.lower()
        self._escaped = re.compile("".join(map(_pattern, self._email)))
        # Most texts have none, and this is found ten times as fast.
        self._escape = "\\" if _ESCAPED_THEMSELVES & set(self._email) else "\\u"

    def found_in(self, text: str) -> bool:
        """Return whether a text has the address."""
        text = text.lower()
        if not self._email:
            return False
        return self._email in text or (self._escape in text and self._escaped.search(text) is not None)


def _pattern(character: str) -> str:
    """Return what matches a character or one of its escapes in lower-case text."""
    backslashes = rf"\\{{1,{_MAX_BACKSLASHES}}}"
    forms = [re.escape(character)]
    if character in _ESCAPED_THEMSELVES:
        forms.append(backslashes + re.escape(character))
    for same in {character, character.upper()}:
        units = same.encode("utf-16-be", "surrogatepass").hex()
        forms.append("".join(f"{backslashes}u{units[at : at + 4]}" for at in range(0, len(units), 4)))
    return f"(?:{'|'.join(forms)})"
