/* An LSTM language model in plain JavaScript: from a file's bytes to the next word.
 *
 * It reads top-down, as a lesson: 1. the file, 2. words, 3. one step, 4. probabilities, 5. a draw.
 * Everything is arithmetic on typed arrays; there is no library and no request to anywhere.
 * The numbers are those of gluonlm in Python, as a test shows; the model's file is written by
 * `python -m gluonlm.export RUN --format web`.
 *
 * Letters: V words, E numbers of a word's vector, H cells of a layer, I inputs of a layer.
 */
"use strict";

/* 1. The file --------------------------------------------------------------------------------
 * The safetensors format: 8 bytes with the length of a header, the header as JSON, then the
 * arrays one after another. A matrix is stored as whole numbers from -127 to 127, a byte each,
 * with one scale for each row: weight[r][c] = scale[r] * values[r][c].                          */

function readFile(bytes) {
  const view = new DataView(bytes);
  const length = Number(view.getBigUint64(0, true));
  if (!(length > 0 && length < bytes.byteLength)) throw new Error("this is not a model file");
  const text = new TextDecoder().decode(new Uint8Array(bytes, 8, length));
  const { __metadata__: { format, words, level, name } = {}, ...entries } = JSON.parse(text);
  if (format !== "gluonlm-web") {
    throw new Error("this file is not for the page: make one with gluonlm.export --format web");
  }
  const kinds = { I8: Int8Array, F32: Float32Array };
  const arrays = {};
  for (const [key, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    const own = bytes.slice(8 + length + from, 8 + length + to); // a copy begins where its type must
    arrays[key] = { values: new kinds[dtype](own), rows: shape[0], columns: shape[1] ?? 1 };
  }
  const matrix = (key) => arrays[key] && { ...arrays[key], scale: arrays[`${key}.scale`].values };
  const layers = [];
  for (let k = 0; arrays[`layers.${k}.i2h_weight`]; k++) {
    const biases = ["i2h", "h2h"].map((part) => arrays[`layers.${k}.${part}_bias`].values); // (4H,)
    layers.push({
      input: matrix(`layers.${k}.i2h_weight`), // (4H, I)
      hidden: matrix(`layers.${k}.h2h_weight`), // (4H, H)
      bias: biases[0].map((value, row) => value + biases[1][row]),
      size: arrays[`layers.${k}.h2h_weight`].columns, // H
    });
  }
  const embedding = matrix("encoder.weight"); // (V, E)
  return {
    name,
    level,
    words: JSON.parse(words), // V of them
    embedding,
    layers,
    projection: matrix("projection.weight"), // (E, H), where the last layer is wider than a vector
    projectionBias: arrays["projection.bias"]?.values,
    decoder: matrix("decoder.weight") ?? embedding, // (V, C); tied: the embedding itself
    bias: arrays["decoder.bias"].values, // (V,)
  };
}

/* 2. A matrix times a vector -------------------------------------------------------------------
 * All the work of the model is here. The scale waits until a row's sum is complete.             */

function multiply({ values, scale, rows, columns }, vector, out) {
  for (let r = 0, at = 0; r < rows; r++) {
    let sum = 0;
    for (let c = 0; c < columns; c++, at++) sum += values[at] * vector[c];
    out[r] += scale[r] * sum;
  }
  return out;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x)); // from 0, shut, to 1, open

/* 3. One step ----------------------------------------------------------------------------------
 * A layer keeps two vectors from word to word: its cells c, and what it showed last, h.
 *
 *   i, f, g, o = input x + hidden h + bias      four numbers for each cell
 *   c          = sigmoid(f) c + sigmoid(i) tanh(g)      keep a share, add something new
 *   h          = sigmoid(o) tanh(c)                     show a share
 */

function stepLayer(layer, x, { h, c }) {
  const H = layer.size;
  const sums = Float64Array.from(layer.bias); // (4H,)
  multiply(layer.input, x, sums);
  multiply(layer.hidden, h, sums);
  const next = { h: new Float64Array(H), c: new Float64Array(H), gates: [] };
  const [i, f, g, o] = [0, 1, 2, 3].map((k) => sums.subarray(k * H, (k + 1) * H));
  for (let k = 0; k < H; k++) {
    i[k] = sigmoid(i[k]);
    f[k] = sigmoid(f[k]);
    g[k] = Math.tanh(g[k]);
    o[k] = sigmoid(o[k]);
    next.c[k] = f[k] * c[k] + i[k] * g[k];
    next.h[k] = o[k] * Math.tanh(next.c[k]);
  }
  next.gates = [i, f, g, o]; // kept to be looked at
  return next;
}

/* Before the first word all cells are 0. */
function beginState(model) {
  return model.layers.map(({ size }) => ({ h: new Float64Array(size), c: new Float64Array(size) }));
}

/* Read one word: its number and the state before -> the state after, and the features (C,) from
 * which the next word is guessed.                                                               */
function readWord(model, id, state) {
  const { values, scale, columns } = model.embedding;
  let x = Float64Array.from(values.subarray(id * columns, (id + 1) * columns), (v) => v * scale[id]);
  const next = model.layers.map((layer, k) => {
    const after = stepLayer(layer, x, state[k]);
    x = after.h; // what one layer shows is what the next one reads
    return after;
  });
  if (model.projection) x = multiply(model.projection, x, Float64Array.from(model.projectionBias));
  return { state: next, features: x };
}

/* 4. Probabilities -----------------------------------------------------------------------------
 * Each word's score (its logit) is the product of its vector with the features, plus its bias.
 * The softmax turns scores into probabilities: exp of each, divided by their sum.               */

function logits(model, features) {
  return multiply(model.decoder, features, Float64Array.from(model.bias)); // (V,)
}

function softmax(scores, temperature = 1) {
  const highest = scores.reduce((a, b) => Math.max(a, b), -Infinity); // exp must not overflow
  const result = scores.map((score) => Math.exp((score - highest) / temperature));
  const total = result.reduce((a, b) => a + b, 0);
  return result.map((weight) => weight / total);
}

/* How surprising a word was, in bits: 1 bit is a coin's toss, 10 bits one of a thousand. */
const surprise = (probability) => -Math.log2(probability);

/* The numbers of the most probable words, the most probable first. */
function likeliest(probabilities, count) {
  const order = Array.from(probabilities.keys());
  return order.sort((a, b) => probabilities[b] - probabilities[a] || a - b).slice(0, count);
}

/* 5. A draw ------------------------------------------------------------------------------------
 * top-k keeps the k most probable words, top-p the fewest that together have probability p. Then
 * a random number between 0 and 1 falls on the line on which the words stand side by side.      */

function draw(scores, { temperature = 1, topK = Infinity, topP = 1, forbidden = [] }, random) {
  const allowed = Float64Array.from(scores);
  for (const id of forbidden) allowed[id] = -Infinity;
  const probabilities = softmax(allowed, temperature);
  const kept = [];
  const order = likeliest(probabilities, Math.min(topK, probabilities.length));
  const mass = order.reduce((sum, id) => sum + probabilities[id], 0);
  let sum = 0;
  for (const id of order) {
    kept.push(id);
    sum += probabilities[id];
    if (sum >= topP * mass) break;
  }
  let point = random() * sum;
  return kept.find((id) => (point -= probabilities[id]) < 0) ?? kept[kept.length - 1];
}

/* Random numbers that a seed repeats: mulberry32, a counter whose bits are mixed. */
function randomNumbers(seed) {
  let counter = seed >>> 0;
  return () => {
    counter = (counter + 0x6d2b79f5) >>> 0;
    let t = Math.imul(counter ^ (counter >>> 15), counter | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/* What a neural cache would look back at (Grave et al. 2017): earlier places whose features are
 * like those of now, as shares that sum to 1. What followed there may follow here.              */
function lookBack(past, now, theta) {
  if (!past.length) return new Float64Array();
  const likeness = past.map((one) => one.reduce((sum, value, k) => sum + value * now[k], 0));
  return softmax(Float64Array.from(likeness, (value) => theta * value));
}
