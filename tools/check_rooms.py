"""Checks that each folder under src/ includes only from itself, rooms below it, and include/stella/.

usage: check_rooms.py ROOM...   (the rooms from the ground up; run from the project's root)
Prints each include that breaks the rule and exits with 1.
"""

import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
FRONT = {"python"}  # may include every room


def violations(rooms: list[str]) -> list[str]:
    known = set(rooms) | FRONT
    found = []
    for path in sorted(Path("src").rglob("*.[ch]pp")) + sorted(Path("include").rglob("*.hpp")):
        room = path.parts[1]
        allowed = (
            {"stella"}
            if room == "stella"
            else {"stella", *rooms[: rooms.index(room) + 1]}
            if room in rooms
            else {"stella", *known}
        )
        if room != "stella" and room not in known:
            found.append(f"{path}: src/{room} is not in the list of rooms (cmake/rooms.cmake)")
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if match and match.group(1).split("/")[0] not in allowed:
                found.append(f'{path}:{number}: src/{room} may not include "{match.group(1)}"')
    return found


if __name__ == "__main__":
    broken = violations(sys.argv[1:])
    print("\n".join(broken), file=sys.stderr, end="\n" if broken else "")
    sys.exit(1 if broken else 0)
