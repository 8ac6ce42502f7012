"""Checks that what README.md and docs/ name exists: files, functions, make targets, stella options.

usage: check_docs.py   (from the project's root; prints each broken name and exits with 1)

- `path/with/slash.ext` in backticks must exist.
- `path.cpp: Name` in backticks must exist, and hold that name.
- `make target` must be a target of the Makefile.
- a `stella ...` line in a code block must be understood by its parser, up to `--`.
- a relative link must lead somewhere.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from stellatrain import cli

ROOT = Path(__file__).parent.parent
TICKS = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)  # language, content
SHELLS = ("", "sh", "bash", "console")
PATH = re.compile(r"(?:src|include|python|tests|docs|bench|examples|tools|fuzz|cmake)/[\w./-]+")


def broken_names(text: str) -> list[str]:
    found = []
    for quoted in TICKS.findall(text):
        path, _, name = quoted.partition(": ")
        if PATH.fullmatch(path) and not (ROOT / path).exists():
            found.append(f"`{quoted}`: no such file")
        elif name and PATH.fullmatch(path) and name not in (ROOT / path).read_text():
            found.append(f"`{quoted}`: {path} does not hold '{name}'")
    return found


def broken_links(page: Path, text: str) -> list[str]:
    targets = [link for link in LINK.findall(text) if "://" not in link]
    return [f"link to {link}" for link in targets if not (page.parent / link).exists()]


def commands(text: str) -> list[str]:
    """Lines of code blocks, continuation lines joined, and `make ...` in running text."""
    blocks = [block for language, block in FENCED.findall(text) if language in SHELLS]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines] + [
        quoted for quoted in TICKS.findall(text) if quoted.startswith("make ")
    ]


def broken_commands(text: str) -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    targets = {
        word for line in re.findall(r"^([a-z][\w -]*):", makefile, re.MULTILINE) for word in line.split()
    }
    found = []
    for line in commands(text):
        if not re.match(r"(\w+=\S* )*(make|stella) ", line):
            continue
        words = shlex.split(line, comments=True)
        while words and "=" in words[0]:
            words.pop(0)
        if words[:1] == ["make"]:
            found += [f"`{line}`: no target {w}" for w in words[1:] if "=" not in w and w not in targets]
        if words[:1] == ["stella"] and not _parses(words[1:]):
            found.append(f"`{line}`: stella does not understand it")
    return found


def _parses(words: list[str]) -> bool:
    words = words[: words.index(">")] if ">" in words else words
    try:
        cli.parser().parse_args(words)
    except SystemExit as ended:
        return ended.code in (0, None)
    return True


def main() -> int:
    failures = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        for problem in broken_names(text) + broken_links(page, text) + broken_commands(text):
            print(f"{page.relative_to(ROOT)}: {problem}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
