"""`python -m docs.draw`: draws the diagrams that have no picture yet, and removes pictures whose diagram is gone.

It runs Mermaid's own command line, `mmdc` (npm: @mermaid-js/mermaid-cli), and that a Chromium: only who changes a diagram needs them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.mkdocs_hook import DIAGRAMS, FOLDER, diagram_file, diagrams, title_of


def wanted() -> dict[str, str]:
    """Returns the text of every diagram on the site by the name of its picture."""
    pages = sorted(FOLDER.rglob("*.md"))
    sources = [source for page in pages for source in diagrams(page.read_text(encoding="utf-8"))]
    return {diagram_file(source): source for source in sources}


def _draw(program: str, source: str, target: Path) -> None:
    title_of(source)
    with tempfile.TemporaryDirectory() as folder:
        text, browser = Path(folder) / "diagram.mmd", Path(folder) / "browser.json"
        text.write_text(source, encoding="utf-8")
        # what is drawn is our own text, and inside containers Chromium has no sandbox
        options = {
            "args": ["--no-sandbox"],
            "executablePath": shutil.which("chromium") or shutil.which("google-chrome"),
        }
        browser.write_text(json.dumps(options), encoding="utf-8")
        arguments = ["-i", str(text), "-o", str(target), "-p", str(browser), "-b", "white", "-I", f"d{target.stem[:8]}"]
        subprocess.run([program, *arguments, "--quiet"], check=True)  # noqa: S603 (a program that the caller installed)


def main() -> int:
    """Brings the pictures up to date."""
    target = FOLDER / DIAGRAMS
    target.mkdir(exist_ok=True)
    drawings = wanted()
    for file in sorted(target.glob("*.svg")):
        if file.name not in drawings:
            file.unlink()
            print(f"removed {file.name}")
    missing = {name: source for name, source in drawings.items() if not (target / name).exists()}
    program = shutil.which("mmdc")
    if missing and program is None:
        print("error: there is no `mmdc`\n  to do: npm install -g @mermaid-js/mermaid-cli", file=sys.stderr)
        return 1
    for name, source in missing.items():
        assert program is not None
        _draw(program, source, target / name)
        print(f"drew {name}: {title_of(source)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
