r"""Finding an address in what was sent, whether its characters are escaped or not.

Any character of a JSON string may be written as an escape: some writers send `+` as `\u002B`. The escapes are undone in
the text itself, which is not decoded: so requests that cannot be decoded are searched as well, as are keys, properties
with the same name, and JSON in strings of JSON, which has more backslashes. That finds an address rather too often than
not at all, and takes a time that grows with the text alone, whatever it is.
"""

from __future__ import annotations

import re
from typing import Final

# With all backslashes of a run: tried at each of them, a text of backslashes would take quadratic time.
_ESCAPE: Final = re.compile(r"(?<!\\)\\++u([0-9a-fA-F]{4})")


class AddressSearch:
    """Searches texts for one address, in any case."""

    def __init__(self, email: str) -> None:
        self._email = email.lower()
        self._unescaped = self._email.replace("\\", "")

    def found_in(self, text: str) -> bool:
        """Return whether a text has the address."""
        if not self._email:
            return False
        return self._email in text.lower() or ("\\" in text and self._unescaped in _unescaped(text).lower())


def _unescaped(text: str) -> str:
    """Undo the escapes of JSON, however often the text was escaped, and leave out all other backslashes."""
    text = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text).replace("\\", "")
    # The two halves of a character beyond 16 bits become one.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
