"""What the maker of a data set is warned of: marks of other tools, lines that occur twice."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

SECOND_END = re.compile(r"<(?:eos|/s)>\s*$")
MARKS = re.compile(r"<s>|</s>|<UNK>|\[UNK\]|<unk>|<pad>")
HTML = re.compile(r"</(?:p|div|span|a|li|td|h[1-6])>", re.IGNORECASE)
FEW_BLANKS = 0.03  # of the characters: about 0.18 are blanks in English
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff]")  # Thai to Chinese
RUN = 6  # such letters to a blank: no words of so many stand apart
MUCH_UNKNOWN = 3.0  # percent of the test tokens
MUCH_REPEATED = 0.05  # of the lines of a held-out text
TELLING = 40  # characters from which on a line that occurs twice is no accident
EXAMPLES = 3


class Checks:
    """Watches lines on their way in, and those written: the held-out texts before the others."""

    def __init__(self):
        self.marks, self.characters, self.blanks, self.unspaced = Counter(), 0, 0, 0
        self.held_out, self.repeated = Counter(), Counter()  # hash of a line -> lines
        self.longest: list[tuple[int, str]] = []  # characters, the line's beginning
        self.first: list[str] = []

    def watch(self, lines: Iterable[str], drop: Callable[[str], str]) -> Iterator[str]:
        """The same lines, once what is left of them after ``drop`` is counted."""
        for line in lines:
            kept = drop(line)
            self.characters += len(kept)
            self.blanks += kept.count(" ")
            self.unspaced += 0 if kept.isascii() else len(UNSPACED.findall(kept))
            if "<" in kept or "[" in kept:
                self.marks.update(["second end"] * bool(SECOND_END.search(kept)))
                self.marks.update(["markup"] * bool(HTML.search(kept)))
                self.marks.update(MARKS.findall(kept))
            yield line

    def line(self, split: str, line: str) -> None:
        """Look at a line as it is written."""
        if len(line) >= TELLING:
            key = hash(line)
            if split != "train":
                self.held_out[key] += 1
            elif key in self.held_out:
                self.repeated[key] = self.held_out[key]
        if split == "train" and len(self.first) < EXAMPLES:
            self.first.append(line.rstrip("\n"))
        if len(self.longest) < EXAMPLES or len(line) > self.longest[-1][0]:
            longest = [*self.longest, (len(line), line[:60].rstrip())]
            self.longest = sorted(longest, reverse=True)[:EXAMPLES]

    def warnings(self, level: str, splits: dict[str, dict]) -> Iterator[str]:
        """A sentence for each thing that is odd."""
        if ends := self.marks.pop("second end", 0):
            yield (
                f"lines end with <eos> or </s> ({ends:,} of them), which reading adds: the second "
                "costs nothing to predict and flatters every perplexity; "
                "--drop ' ?<(eos|/s)>' removes it"
            )
        if (markup := self.marks.pop("markup", 0)) and level != "char":
            cure = "take it out first, for example with `pandoc -f html -t plain`"
            yield f"lines with HTML ({markup:,} of them) would be learned as text: {cure}"
        if self.marks and level != "char":
            marks = ", ".join(f"{mark} ({count:,})" for mark, count in self.marks.items())
            yield f"the text has marks of another tool: {marks}; is --tokenizer none right?"
        usual = max(FEW_BLANKS * self.characters, self.unspaced / RUN)
        if level == "word" and self.blanks < usual:
            fits = "--level char or --level subword fits it better"
            yield f"there are next to no blanks between words: {fits}"
        if (unknown := splits["test"]["unknown_percent"]) > MUCH_UNKNOWN:
            cure = "a larger --vocab-size, a lower --min-count, more text or --level subword helps"
            yield f"{unknown:.1f} % of the test tokens are unknown: {cure}"
        repeated = self.repeated.total()
        share = repeated / max(self.held_out.total(), 1)
        if share > MUCH_REPEATED and repeated > 1:
            where = "stand in the training text, too, and are easy: the sources repeat themselves"
            yield f"{100 * share:.0f} % of the long held-out lines {where}"
