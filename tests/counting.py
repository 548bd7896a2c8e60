"""How long a notebook is to read: words, cells, lines of code, and how many of these only draw, print or check.

``python tests/counting.py`` prints a line for each notebook; test_notebooks.py holds them to their limits.
"""

import ast
import re
from typing import NamedTuple

import nbformat

from bioface import paths
from study import notebook

# what does not belong to the argument: pictures, text and claims
AROUND = re.compile(r"\b(?:(?:plt|ax\w*|figures?|plotting|drawings|widgets|claims|c|notebook)\.|(?:print|display)\()")


class Length(NamedTuple):
    """Of a notebook; ``around`` are those of its ``lines`` of code that draw, print or check."""

    words: int
    cells: int
    lines: int
    around: int
    pictures: int
    captions: list[int]
    answer: int


def words(text):
    """Number of words of Markdown: links by their texts, formulas and code left out."""
    text = re.sub(r"```.*?```|^ {4}.*?$|\$\$.*?\$\$|\$.*?\$|<!--.*?-->", " ", text, flags=re.M | re.S)
    text = re.sub(r"\]\([^)]*\)", " ", text)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def statements(tree):
    """Every statement that holds no other, and the first lines of those that do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            yield node, range(node.lineno, (body[0].lineno if body else node.end_lineno + 1))


def code_lines(source, hidden):
    """How many lines are not blank and no comment, and how many of them only draw, print or check."""
    lines = source.splitlines()
    real = {k for k, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("#")}
    around = set()
    for node, where in statements(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        # a loop that only draws counts with its first line
        whole = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        inside = [s for s in ast.walk(node) if isinstance(s, ast.stmt) and s is not node]
        leaves = [ast.get_source_segment(source, s) for s in inside if not hasattr(s, "body")]
        if all(AROUND.search(text) for text in leaves or [whole]):
            around |= set(where)
    return len(real), len(real if hidden else real & around)


def measure(notebook):
    """The :class:`Length` of a notebook."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [code_lines(cell.source, "hide-input" in cell.metadata.get("tags", [])) for cell in code]
    pictures = sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    captions = [int(number) for number in re.findall(r"^\*{0,2}Figure (\d+)\.", text, re.M)]
    answer = re.search(r"\*\*Answer\.?\*\*(.*?)(\n\n|$)", text, re.S)
    lines, around = map(sum, zip(*counts, strict=True))
    return Length(words(text), len(code), lines, around, pictures, captions, words(answer[1]) if answer else 0)


if __name__ == "__main__":
    for path in notebook.every(paths.notebooks()):
        found = measure(nbformat.read(path, as_version=4))
        print(f"{path.stem:32s} {found.around / found.lines:4.0%}", found._asdict())
