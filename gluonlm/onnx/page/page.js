/* What the page does with the model of lstm.js: reads the text, shows surprise, writes, opens cells. */
"use strict";

const $ = (id) => document.getElementById(id);
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const EXAMPLES = {
  austen: "it was impossible for her to be more than civil to him, and she was glad to be gone.",
  news: "the company said third-quarter profit fell as investors sold shares of the bank.",
  nonsense: "green ideas of the the spoon were very yesterday and.",
};
const MOST_BITS = 18; // the ground's colour ends here
const LONGEST = 60; // words that "write on" writes at the most
const THETA = 0.3; // how sharply the cache looks

let model = null;
let steps = []; // one for each word read: {id, word, bits, state, features, gates}, from the sentence's beginning
let chosen = 0; // the step whose future and past are shown
let heldSeed = null; // the text before the last "write on", for "again"

/* Reading: only what has changed since the last time is computed. --------------------------------*/

function read(text) {
  const tokens = toWords(text, model);
  const wanted = [model.start, ...tokens.map(({ id }) => id)];
  let same = 0;
  while (same < steps.length && same < wanted.length && steps[same].id === wanted[same]) same++;
  steps.length = same;
  for (let k = same; k < wanted.length; k++) {
    const before = steps[k - 1];
    const { state, features } = readWord(model, wanted[k], before ? before.state : beginState(model));
    const bits = before ? surprise(softmax(scoresOf(before))[wanted[k]]) : 0;
    steps.push({ id: wanted[k], bits, state, features });
  }
  tokens.forEach(({ word, known }, k) => Object.assign(steps[k + 1], { word, known }));
}

/* The scores of what follows a step, computed when they are first asked for. */
function scoresOf(step) {
  step.scores ??= logits(model, step.features);
  return step.scores;
}

function refresh() {
  readOn();
  showChosen();
}

/* Read the text and show its words; what is inside is shown when it stands still. */
function readOn() {
  read($("text").value);
  chosen = steps.length - 1;
  showStrip();
}

/* Showing ----------------------------------------------------------------------------------------*/

function element(tag, content, attributes = {}) {
  const made = document.createElement(tag);
  made.append(...(Array.isArray(content) ? content : [content]));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function showStrip() {
  const items = steps.slice(1).map((step, k) => {
    const bits = step.bits.toFixed(1);
    const button = element("button", [shownWord(step.word), element("small", step.known ? bits : `unknown, ${bits}`)], {
      type: "button",
      "aria-pressed": k + 1 === chosen,
      "aria-label": `${shownWord(step.word)}, ${bits} bits${step.known ? "" : ", not in the vocabulary"}`,
      class: step.known ? "" : "unknown",
      style: `background: rgba(var(--hot), ${0.85 * Math.min(step.bits / MOST_BITS, 1)})`,
    });
    button.addEventListener("click", () => {
      chosen = k + 1;
      showStrip();
      showChosen();
      $("strip").children[k].firstChild.focus();
    });
    return element("li", button);
  });
  $("strip").replaceChildren(...items);
  const read = steps.slice(1);
  const mean = read.reduce((sum, { bits }) => sum + bits, 0) / read.length;
  $("score").textContent = read.length
    ? `${counted(read.length, "token")} (without the end of the sentence), ${mean.toFixed(2)} bits each on average: perplexity ${(2 ** mean).toFixed(1)}, ` +
      `as if it had chosen among ${Math.round(2 ** mean)} equally likely words each time.`
    : "Nothing read yet.";
}

function showChosen() {
  const last = chosen === steps.length - 1;
  $("where").textContent = chosen
    ? `After “${shownWord(steps[chosen].word)}”${last ? "; a click on a word appends it." : ", word " + chosen + " of the text."}`
    : "At the beginning of a sentence; a click on a word appends it.";
  const probabilities = softmax(scoresOf(steps[chosen]));
  const best = likeliest(probabilities, 10);
  const items = best.map((id) => {
    const button = element("button", shownWord(model.words[id]), { type: "button" });
    button.disabled = !last || id === model.unknown;
    button.addEventListener("click", () => append([id]));
    return bar(button, probabilities[id], probabilities[best[0]]);
  });
  $("next").replaceChildren(...items);
  showCells();
  showCache();
}

function bar(label, share, longest) {
  const line = element("div", "", { class: "bar", style: `width: ${(100 * share) / longest}%` });
  const shown = share < 0.001 ? "< 0.1" : (100 * share).toFixed(1);
  const number = element("span", `${shown} %`, { class: "number" });
  return element("li", [label, line, number]);
}

function append(ids) {
  $("text").value = toText([...steps.slice(1).map(({ word }) => word), ...ids.map((id) => model.words[id])]);
  heldSeed = null;
  refresh();
}

/* Writing: one word per frame, so that it can be watched. ----------------------------------------*/

function write(from) {
  $("text").value = from;
  refresh();
  heldSeed = from;
  const random = randomNumbers(Number($("seed").value));
  const settings = {
    temperature: Number($("temperature").value),
    topK: Number($("top-k").value) || Infinity,
    topP: Number($("top-p").value),
    forbidden: model.unknown === undefined ? [] : [model.unknown],
  };
  const written = steps.slice(1).map(({ word }) => word);
  const started = performance.now();
  let count = 0;
  busy(true);
  const one = () => {
    const id = draw(scoresOf(steps[steps.length - 1]), settings, random);
    count++;
    if (id === model.end && count > 1) return done(); // a sentence is complete
    written.push(model.words[id]);
    $("text").value = toText(written);
    readOn();
    return count < LONGEST ? setTimeout(one) : done();
  };
  const done = () => {
    const each = (performance.now() - started) / count;
    showChosen();
    busy(false);
    $("speed").textContent = `${counted(count, "word")}, ${each.toFixed(0)} ms each`;
  };
  one();
}

function busy(yes) {
  for (const id of ["write", "again", "clear"]) $(id).disabled = yes;
}

/* Inside: cells as a heat map, the gates of one, the look back. ----------------------------------*/

function cellsOf(step) {
  return step.state[Number($("layer").value)];
}

function showCells() {
  const read = steps.slice(1);
  const size = model.layers[Number($("layer").value)].size;
  const cell = Math.min(Math.max(0, Math.floor(Number($("cell").value)) || 0), size - 1);
  $("cell").max = size - 1;
  const canvas = $("heat");
  const wide = Math.max(8, Math.min(28, Math.floor(900 / Math.max(read.length, 1))));
  canvas.width = Math.max(1, read.length) * wide;
  canvas.height = size;
  const colours = getComputedStyle(document.documentElement);
  const [hot, cold] = ["--hot", "--cold"].map((name) => colours.getPropertyValue(name));
  const paint = canvas.getContext("2d");
  read.forEach((step, t) => {
    const { c } = cellsOf(step);
    for (let k = 0; k < size; k++) {
      paint.fillStyle = `rgba(${c[k] > 0 ? hot : cold}, ${Math.min(1, Math.abs(c[k]))})`;
      paint.fillRect(t * wide, k, wide - 1, 1);
    }
  });
  paint.strokeStyle = colours.getPropertyValue("--ink");
  paint.strokeRect(0.5, cell - 0.5, canvas.width - 1, 2);
  canvas.setAttribute("aria-label", `The ${size} cells of layer ${Number($("layer").value) + 1} over ${read.length} words; arrow keys choose a cell`);
  canvas.dataset.wide = wide;
  showGates(read, cell);
}

function showGates(read, cell) {
  const names = ["i, lets in", "f, keeps", "g, what is new", "o, shows"];
  const rows = [element("tr", [element("th", "word", { scope: "row" }), ...read.map(({ word }) => element("th", shownWord(word), { scope: "col" }))])];
  const row = (name, number) => {
    const cells = read.map((step) => {
      const value = number(cellsOf(step));
      const colour = value > 0 ? "--hot" : "--cold";
      return element("td", value.toFixed(2), { style: `background: rgba(var(${colour}), ${0.6 * Math.min(1, Math.abs(value))})` });
    });
    rows.push(element("tr", [element("th", name, { scope: "row" }), ...cells]));
  };
  names.forEach((name, k) => row(name, ({ gates }) => gates[k][cell]));
  row("c, the cell", ({ c }) => c[cell]);
  row("h, shown", ({ h }) => h[cell]);
  $("gates").tBodies[0].replaceChildren(...(read.length ? rows : []));
  $("cell-says").textContent = read.length ? `Cell ${cell} of layer ${Number($("layer").value) + 1}.` : "";
}

function showCache() {
  const past = steps.slice(1, chosen).map(({ features }) => features);
  const shares = lookBack(past, steps[chosen].features, THETA);
  const best = likeliest(shares, 5);
  const items = best.map((t) => bar(element("span", `${shownWord(steps[t + 1].word)} → ${shownWord(steps[t + 2].word)}`), shares[t], shares[best[0]]));
  $("cache").replaceChildren(...items);
  $("cache-says").textContent = items.length
    ? "A neural cache would look back at these earlier places, whose features are most like those of now, and expect what followed there:"
    : "A neural cache has nothing to look back at yet.";
}

/* Loading ----------------------------------------------------------------------------------------*/

function useModel(bytes) {
  const read = readFile(bytes);
  Object.assign(read, wordTable(read));
  model = read;
  steps = [];
  const austen = model.name === "Jane Austen"; // the text that comes with gluonlm
  $("has-read").textContent = austen ? "the six novels of Jane Austen" : `the text “${model.name}”`;
  document.querySelector("[data-example=austen]").hidden = !austen;
  if (austen) $("text").value ||= EXAMPLES.austen;
  $("layer").replaceChildren(...model.layers.map((_, k) => element("option", k + 1, { value: k })));
  $("layer").value = model.layers.length - 1;
  $("loaded").textContent = `${model.name}: ${model.words.length} words, ${counted(model.layers.length, "layer")} of ` +
    `${model.layers.map(({ size }) => size).join(" and ")} cells, ${(bytes.byteLength / 1e6).toFixed(1)} MB.`;
  $("loaded").className = "";
  document.body.dataset.ready = "yes";
  refresh();
}

/* The model that came with the page, as gzip in letters: a page from disk may not read other files. */
async function useLetters(base64) {
  const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  useModel(await new Response(plain).arrayBuffer());
}

async function useUpload(file) {
  try {
    useModel(await file.arrayBuffer());
  } catch (error) {
    $("loaded").textContent = `${file.name}: ${error.message}`;
    $("loaded").className = "error";
  }
}

$("text").addEventListener("input", () => { heldSeed = null; refresh(); });
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => { $("text").value = EXAMPLES[button.dataset.example]; heldSeed = null; refresh(); });
}
$("clear").addEventListener("click", () => { $("text").value = ""; heldSeed = null; refresh(); });
$("write").addEventListener("click", () => write($("text").value));
$("again").addEventListener("click", () => {
  $("seed").value = Number($("seed").value) + 1;
  write(heldSeed ?? $("text").value);
});
for (const id of ["layer", "cell"]) $(id).addEventListener("change", showCells);
$("busiest").addEventListener("click", () => {
  const read = steps.slice(1).map((step) => cellsOf(step).c);
  const moved = (k) => read.reduce((sum, c, t) => sum + (t ? Math.abs(c[k] - read[t - 1][k]) : 0), 0);
  const size = model.layers[Number($("layer").value)].size;
  $("cell").value = likeliest(Float64Array.from({ length: size }, (_, k) => moved(k)), 1)[0];
  showCells();
});
$("heat").addEventListener("click", (event) => {
  $("cell").value = Math.floor((event.offsetY / $("heat").clientHeight) * $("heat").height);
  chosen = Math.min(steps.length - 1, 1 + Math.floor(event.offsetX / Number($("heat").dataset.wide)));
  showStrip();
  showChosen();
});
$("heat").addEventListener("keydown", (event) => {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  $("cell").value = Number($("cell").value) + by;
  showCells();
});
for (const id of ["temperature", "top-k", "top-p"]) {
  const output = $(id).nextElementSibling;
  const show = () => { output.textContent = $(id).value === "0" ? "all" : $(id).value; };
  $(id).addEventListener("input", show);
  show();
}
$("file").addEventListener("change", (event) => event.target.files[0] && useUpload(event.target.files[0]));
$("source").querySelector("pre").textContent = $("lstm-source").textContent.trim();
const drop = $("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) useUpload(event.dataTransfer.files[0]);
  });
}
