/* From text to words and back, as the novels were cut: marks and endings are words of their own. */
"use strict";

/* What the model's words are: the number of each, and those with a meaning of their own. */
function wordTable({ words, level }) {
  const ids = new Map(words.map((word, id) => [word, id]));
  const end = ids.get("<eos>") ?? ids.get("\n");
  return { ids, end, start: end ?? 0, unknown: ids.get("<unk>"), level };
}

/* A text as words of the model: [{word, id, known}]. */
function toWords(text, { ids, unknown, level }) {
  const pieces = level === "char" ? [...text] : cut(text, ids);
  return pieces.map((word) => {
    const known = ids.has(word) && ids.get(word) !== unknown;
    return { word, known, id: known ? ids.get(word) : unknown ?? 0 };
  });
}

/* Words in small letters: hyphens stay inside, a number is N. Endings with an apostrophe ('s) and
 * words with a full stop (mr.) are one word if the model knows them so, else two.               */
const PIECES = /\n|<\w+>|--+|\.{2,}|\d[\d.,]*(?:\p{L}+)?|'\p{L}+|\p{L}+(?:-\p{L}+)*\.?|-\p{L}+|\S/giu;

function cut(text, ids) {
  let open = false;
  const plain = text.toLowerCase().replace(/[‘’]/g, "'");
  return (plain.match(PIECES) ?? []).flatMap((piece) => {
    if (piece === "\n") return "<eos>"; // a line is a sentence
    if (piece === '"') return (open = !open) ? "“" : "”";
    if (/^\d/.test(piece)) return /[.,]$/.test(piece) ? ["N", piece.slice(-1)] : "N";
    if (ids.has(piece)) return piece;
    if (/^'./.test(piece)) return ["'", piece.slice(1)];
    return /^\p{L}.*\.$/u.test(piece) ? [piece.slice(0, -1), "."] : piece;
  });
}

/* Words as a reader would write them: no blank before what closes, none after what opens. */
function toText(words) {
  return words.join(" ").replace(/ ?<eos> ?/g, "\n").replace(/ ([,.;:!?)\]”]|'\p{L})/gu, "$1").replace(/([([“]) /g, "$1");
}

/* A word as it is shown: what cannot be seen gets a name. */
function shownWord(word = "") {
  return { "\n": "↵", " ": "␣", "<eos>": "(end of sentence)", "<unk>": "(unknown word)" }[word] ?? word;
}
