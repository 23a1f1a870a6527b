"""Reading small files that a user names: what is no regular file (a device, a pipe) is never read."""

from __future__ import annotations

import stat
from pathlib import Path

from conet_graph.ir.errors import BadUsage, shown


def require_regular(path: Path, what: str) -> None:
    """Refuse a path that cannot be read to its end.

    Args:
        path: what the user named.
        what: how messages call it, as in 'plan'.

    Raises:
        BadUsage: it is missing, a folder, a device or a pipe, or cannot be looked at.

    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BadUsage(f"The {what} {shown(str(path))} cannot be read: {why}.") from None
    if not stat.S_ISREG(mode):
        raise BadUsage(f"The {what} {shown(str(path))} cannot be read: it is no regular file.")


def read_text(path: Path, what: str) -> str:
    """The text of a file.

    Raises:
        BadUsage: it cannot be read, or is no text.

    """
    require_regular(path, what)
    try:
        return path.read_text("utf-8")
    except OSError as error:
        why = error.strerror or str(error)
        raise BadUsage(f"The {what} {shown(str(path))} cannot be read: {why}.") from None
    except UnicodeDecodeError:
        raise BadUsage(f"The {what} {shown(str(path))} cannot be read: it is no text in UTF-8.") from None
