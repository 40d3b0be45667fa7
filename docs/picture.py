#!/usr/bin/env python3
"""Draws the README's picture: a terminal with the real output of three commands, once for light and once for dark pages.

usage: python3 docs/picture.py SPIKED    (run in the top folder; writes docs/learn-light.svg and docs/learn-dark.svg)
"""

import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

CAPTURES = "gearman-2.pcap gearman-oddport.pcap"
COMMANDS = [
    f"spiked read {CAPTURES}",
    "spiked learn --from gearman-1.pcap --packet 4 --class gearman --out mine.safetensors",
    f"spiked read --model mine.safetensors {CAPTURES}",
]
THEMES = {
    "light": {"page": "#ffffff", "line": "#d0d7de", "text": "#1f2328", "prompt": "#0969da", "found": "#1a7f37", "unknown": "#9a6700"},
    "dark": {"page": "#0d1117", "line": "#30363d", "text": "#e6edf3", "prompt": "#58a6ff", "found": "#3fb950", "unknown": "#d29922"},
}
LINE, COLUMN, LEFT, TOP = 19, 8.05, 18, 30
# Spaces in SVG text collapse.
NO_BREAK = "\u00a0"
# Longer lines are folded.
WIDTH = 100


def fold(line):
    """The line in parts of at most WIDTH characters, broken at spaces."""
    while len(line) > WIDTH:
        at = line.rfind(" ", 0, WIDTH)
        yield line[:at]
        line = "    " + line[at + 1 :]
    yield line


def lines(spiked):
    """(kind, text) of every line: a command, or output of one."""
    captures = Path("fixtures/captures").resolve()
    with tempfile.TemporaryDirectory() as folder:
        for name in {"gearman-1.pcap", *CAPTURES.split()}:
            os.symlink(captures / name, Path(folder) / name)
        for command in COMMANDS:
            yield "prompt", "$ " + command
            arguments = [spiked, *command.split()[1:]]
            output = subprocess.run(arguments, cwd=folder, check=True, capture_output=True, text=True).stdout
            for line in output.rstrip().split("\n"):
                kind = "unknown" if line.startswith("unknown") else "found" if line.startswith("gearman  ") else "text"
                for part in fold(line):
                    yield kind, part
            yield "text", ""


def draw(rows, theme):
    colours = THEMES[theme]
    width, height = round(2 * LEFT + (WIDTH + 2) * COLUMN), TOP + LINE * len(rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="{colours["page"]}" stroke="{colours["line"]}"/>',
        '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="13.3" xml:space="preserve">',
    ]
    for number, (kind, text) in enumerate(rows):
        if text:
            weight = ' font-weight="bold"' if kind in ("prompt", "found") else ""
            out.append(f'<text x="{LEFT}" y="{TOP + LINE * number}" fill="{colours[kind]}"{weight}>{escape(text).replace(" ", NO_BREAK)}</text>')
    return "\n".join([*out, "</g>", "</svg>", ""])


def main():
    spiked = str(Path(sys.argv[1]).resolve())
    rows = list(lines(spiked))[:-1]
    for theme in THEMES:
        Path(f"docs/learn-{theme}.svg").write_text(draw(rows, theme))


if __name__ == "__main__":
    main()
