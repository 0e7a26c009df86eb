"""The picture of the course's path: a line of lessons from top to bottom, arcs from each to those
it builds on.

It is part of the page and takes its colours from there, light or dark (_static/site.css); each
lesson is a link.
"""

import textwrap
from html import escape

from lessons import Lesson

WIDTH, ROW, TOP, LINE_X, RADIUS = 400, 58, 34, 96, 15


def draw_path(lessons: list[Lesson]) -> str:
    """The picture as an SVG element for a page beside the folder of the lessons."""
    place = {lesson.number: TOP + ROW * row for row, lesson in enumerate(lessons)}
    height = TOP * 2 + ROW * (len(lessons) - 1)
    named = "; ".join(f"{lesson.number} {lesson.title}" for lesson in lessons)
    parts = [
        f'<svg class="course-path" viewBox="0 0 {WIDTH} {height}" role="group" '
        f'xmlns="http://www.w3.org/2000/svg"'
        f' aria-label="The path of the course, from top to bottom: {escape(named)}">',
        f'<line class="line" x1="{LINE_X}" x2="{LINE_X}" y1="{TOP}" y2="{height - TOP}"/>',
    ]
    order = list(place)
    for later, earlier in (
        (lesson.number, need) for lesson in lessons for need in lesson.needs if need in place
    ):
        distance = order.index(later) - order.index(earlier)
        if distance > 1:  # the line itself says the rest
            parts.append(arc(place[earlier], place[later], distance / max(2, len(lessons) - 1)))
    parts += [stop(lesson, place[lesson.number]) for lesson in lessons]
    return "\n".join([*parts, "</svg>"])


def arc(top: float, bottom: float, share: float) -> str:
    """A curve at the left of the line between two lessons, wider for a larger share of the whole
    path."""
    x = LINE_X - RADIUS
    reach = x - (20 + (x - 24) * share) * 4 / 3
    return (
        f'<path class="arc" d="M {x} {top} C {reach:.0f} {top}, {reach:.0f} {bottom}, {x} '
        f'{bottom}"/>'
    )


def stop(lesson: Lesson, y: float) -> str:
    """A lesson: its number in a circle, title and subtitle beside it."""
    below = textwrap.wrap(lesson.subtitle, 44)
    start = y + 5.5 - 8 * len(below)
    x = LINE_X + RADIUS + 12
    lines = [f'<text class="title" x="{x}" y="{start}">{escape(lesson.title)}</text>']
    for line, text in enumerate(below, 1):
        lines.append(
            f'<text class="subtitle" x="{x}" y="{start + 1 + 16 * line}">{escape(text)}</text>'
        )
    return (
        f'<a href="{lesson.docname}.html"><circle class="stop" cx="{LINE_X}" cy="{y}" '
        f'r="{RADIUS}"/>'
        f'<text class="number" x="{LINE_X}" '
        f'y="{y + 4.5}">{lesson.number:02}</text>{"".join(lines)}</a>'
    )
