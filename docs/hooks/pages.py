"""The pages of the site that are written at build: from the code, and from files that stand elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import benchmarks_page
import commands_page
import contracts_page
import house_page
import settings_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "datasheet.md": "serm/worlds/emoji_data/DATASHEET.md",
}
"""Pages of the site, and the files of the repository that they are."""
FROM_CODE = {
    "architecture.md": house_page.page,
    "benchmarks.md": benchmarks_page.page,
    "reference/params.md": settings_page.page,
    "reference/commands.md": commands_page.page,
    "reference/contracts.md": contracts_page.page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds."""
    written = {
        **{page: _moved((ROOT / source).read_text(encoding="utf-8")) for page, source in ELSEWHERE.items()},
        **{page: write() for page, write in FROM_CODE.items()},
        "relevance-from-clicks.md": notebook(ROOT / "docs" / "relevance-from-clicks.ipynb"),
    }
    for path, text in written.items():
        files.append(File.generated(config, path, content=text))
    placed = json.dumps(config.nav)
    more = [file.src_uri for file in files.documentation_pages() if f'"{file.src_uri}"' not in placed]
    if more:  # a page that nobody has given a place in mkdocs.yml yet is found all the same
        config.nav = [*(config.nav or ()), {"More": more}]
    return files


def notebook(path: Path) -> str:
    """Return a notebook as Markdown: its texts, its code and what the code printed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            printed = "".join(output.get("text", output.get("data", {}).get("text/plain", ())))
            parts += [f"```text\n{printed.rstrip()}\n```"] if printed else []
    return "\n\n".join(parts) + "\n"


def _moved(text: str) -> str:
    """Return the text of a file of the repository with its links as they are on the site."""
    for page, source in ELSEWHERE.items():
        text = re.sub(rf"\]\((?:data/emoji/)?{re.escape(Path(source).name)}(#[^)]*)?\)", rf"]({page}\1)", text)
    text = text.replace("](docs/relevance-from-clicks.ipynb)", "](relevance-from-clicks.md)")
    text = text.replace("](docs/hooks/", "](").replace("](docs/", "](")
    return re.sub(r"```mermaid\n.*?```", "[The house, drawn from the code](architecture.md).", text, flags=re.DOTALL)
