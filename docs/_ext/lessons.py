"""The course as its notebooks describe it: number, title, what one does there and which lessons
come before."""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

NEEDS = re.compile(r"\*\*What you need\.\*\*(.*?)(?=\n\n|\Z)", re.DOTALL)
DOES = re.compile(r"\*\*What you will do\.\*\*(.*?)(?=\n\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Lesson:
    """A notebook of the course."""

    number: int
    docname: str
    title: str  # up to the first comma or colon of its heading
    subtitle: str  # what follows there
    does: str
    needs: tuple[int, ...]  # numbers of lessons


def read_lesson(path: Path) -> Lesson:
    """What a notebook's first cell says."""
    text = nbformat.read(path, as_version=4).cells[0].source
    heading = re.sub(r"^# *(\d+ *[·.:] *)?", "", text.partition("\n")[0])
    title, _, subtitle = re.sub(r"[,:] ", "\n", heading, count=1).partition("\n")
    needed, does = NEEDS.search(text), DOES.search(text)
    numbers = numbers_in(needed[1]) if needed else ()
    return Lesson(
        number=int(path.stem[:2]),
        docname=f"notebooks/{path.stem}",
        title=title,
        subtitle=subtitle,
        does=" ".join(does[1].split()) if does else "",
        needs=tuple(number for number in numbers if number < int(path.stem[:2])),
    )


def numbers_in(text: str) -> list[int]:
    """The lessons that a text names, as in "lessons 01 to 03 and 05", but those "not needed"."""
    found = set()
    for sentence in re.split(r"(?<=[.;]) ", " ".join(text.split())):
        if "not needed" in sentence:
            continue
        for first, _, last in re.findall(r"\b(\d\d)\b(?:( to |-)(\d\d)\b)?", sentence):
            found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def read_lessons(folder: Path) -> list[Lesson]:
    """All notebooks in order of number."""
    return [read_lesson(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
