"use strict";
(() => {
const STEPS = 9, SCALE = 1e6, ROW = 56, PRINTED = 50, TOP_WORDS = 10, TOP_CLASSES = 8, MATRIX_CLASSES = 12;
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const VALUE = new Map([...DIGITS].map((digit, i) => [digit, i]));

const $ = id => document.getElementById(id);
const { classes, labels: numLabels, documents: rows } = JSON.parse($("data").textContent);
const documents = rows.map(([id, text, predicted, p, truth, pTruth, figures]) => ({ id, text, predicted, p, truth, pTruth, figures }));
if (!documents.length) return; // what the page holds without scripts says so

// Text becomes part of the page here and nowhere else: as text, with control characters made visible.
const visible = text => text.replace(/[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]/g, c => {
  const code = c.charCodeAt(0);
  return code < 32 ? String.fromCharCode(0x2400 + code) : code === 127 ? "\u2421" : "\ufffd";
});
const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.map(child => typeof child === "string" ? visible(child) : child));
  return made;
};
const svg = (className, attributes) => {
  const make = tag => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const picture = make("svg"), bar = make("rect");
  picture.setAttribute("class", className);
  picture.setAttribute("aria-hidden", "true");
  for (const [name, value] of Object.entries(attributes)) bar.setAttribute(name, value);
  picture.append(bar);
  return picture;
};
const gutterBar = height => svg("bar", { width: "100%", y: `${100 - 100 * height}%`, height: `${100 * height}%` });
const meter = share => svg("meter", { width: `${100 * share}%`, height: "100%" });
const percent = share =>
  share > 0 && share < .0005 ? "< 0.1 %"
  : share >= .9995 && share < 1 ? "> 99.9 %"
  : share === 0 || share === 1 || share >= .0995 && share < .985 ? `${Math.floor(100 * share + .5)} %`
  : `${(Math.floor(1000 * share + .5) / 10).toFixed(1)} %`;
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const isWrong = doc => doc.truth >= 0 && doc.truth !== doc.predicted;

// A document's figures: numbers with five bits a character, the lowest first; the last is below 32.
function decode(doc) {
  const encoded = doc.figures;
  let i = 0;
  const next = () => {
    for (let number = 0, unit = 1; ; unit *= 32) {
      const digit = VALUE.get(encoded[i++]);
      number += (digit % 32) * unit;
      if (digit < 32) return number;
    }
  };
  const odds = Array.from({ length: next() }, () => [next(), next() / SCALE]);
  let at = 0;
  const cuts = Array.from({ length: next() }, () => {
    const start = at + next();
    at = start + next();
    return [start, at];
  });
  const sentences = [];
  at = 0;
  while (i < encoded.length) {
    const start = at + next(), end = start + next(), weight = next() / SCALE;
    at = start;
    const words = Array.from({ length: next() }, () => {
      const gap = next(), start = at + (gap >> 1), end = start + next(), own = next() / SCALE;
      at = end;
      return { start, end, weight: own, unknown: gap % 2 === 1, share: weight * own, display: Math.sqrt(weight) * own };
    });
    sentences.push({ start, end, weight, words });
    at = end;
  }
  const words = sentences.flatMap(sentence => sentence.words);
  const top = words.reduce((most, word) => Math.max(most, word.display), 0) || 1;
  for (const sentence of sentences) for (const word of sentence.words) {
    word.step = Math.floor((STEPS - 1) * word.display / top + .5);
    word.lift = word.share * sentences.length * sentence.words.length;
  }
  // Spans count code points; a JavaScript string counts UTF-16 units.
  return { odds, cuts, sentences, words, points: Array.from(doc.text) };
}

const within = (spans, start, end) =>
  spans.map(([first, last]) => [Math.max(first, start), Math.min(last, end)]).filter(([first, last]) => first < last);

// The article of one document; `onWord` and `onSentence` see each word and sentence as it is drawn.
function article(doc, detail, onWord = () => {}, onSentence = () => {}) {
  const { odds, cuts, sentences, words, points } = detail;
  const slice = (start, end) => points.slice(start, end).join("");
  const named = (className, label) => element("b", className, element("bdi", "", classes[label]));
  const verdict = element("p", "verdict", "Read as ", named("", doc.predicted), ` with ${percent(doc.p / SCALE)}`);
  if (doc.truth < 0) verdict.append(".");
  else if (isWrong(doc)) verdict.append(", in truth ", named("wrong", doc.truth), ".");
  else verdict.append(", which is right.");
  const parts = [element("h2", "", element("bdi", "", doc.id)), verdict,
    element("p", "odds", ...odds.map(([label, p]) => element("span", "", element("bdi", "", classes[label]), ` ${percent(p)} `)))];
  if (!words.length) parts.push(element("p", "note", "This document has no words: the class comes from the classifier’s bias alone."));
  if (cuts.length) parts.push(element("p", "note", "Hatched text was not read, because of a length limit."));
  const top = sentences.reduce((most, sentence) => Math.max(most, sentence.weight), 0) || 1;
  let at = 0;
  const block = (start, end, sentence, ...children) => {
    const p = element("p", "", ...children), gutter = element("div", "gutter"), made = element("div", "block", gutter, p);
    p.dir = "auto";
    if (at && /\n\s*\n|\r\s*\r|<br|\u2029/i.test(slice(at, start))) made.classList.add("paragraph");
    if (sentence) {
      const height = sentence.weight / top;
      gutter.append(element("span", "", percent(sentence.weight)), gutterBar(height));
      made.classList.toggle("key", height === 1);
      onSentence(made, sentence);
    }
    parts.push(made);
    at = end;
  };
  const cutBlocks = end => within(cuts, at, end).forEach(([first, last]) => block(first, last, null, element("span", "cut", slice(first, last))));
  for (const sentence of sentences) {
    cutBlocks(sentence.start);
    const marks = [...within(cuts, sentence.start, sentence.end).map(([start, end]) => ({ start, end })), ...sentence.words];
    const children = [];
    let from = sentence.start;
    for (const mark of marks.sort((a, b) => a.start - b.start)) {
      children.push(slice(from, mark.start));
      const span = element("span", mark.step === undefined ? "cut" : `w w${mark.step}`, slice(mark.start, mark.end));
      if (mark.unknown) span.classList.add("unknown");
      if (mark.step !== undefined) onWord(span, mark);
      children.push(span);
      from = mark.end;
    }
    block(sentence.start, sentence.end, sentence, ...children, slice(from, sentence.end));
  }
  cutBlocks(points.length);
  return parts;
}

// The list: only the rows in view are in the page.
let view = [], place = 0, shown = null;
const list = $("list"), listRows = $("rows");

function row(i) {
  const doc = documents[view[i]], label = element("bdi", isWrong(doc) ? "wrong" : "", (isWrong(doc) ? "✗ " : "") + classes[doc.predicted]);
  const snippet = Array.from(doc.text.slice(0, 400).trimStart()).slice(0, 160).join("") || "(empty)";
  const made = element("div", "row",
    element("span", "snippet", element("span", "", doc.id), element("span", "", snippet)),
    element("span", "meta", label, meter(doc.p / SCALE), element("span", "", percent(doc.p / SCALE))));
  made.id = `row-${i}`;
  made.style.top = `${6 + i * ROW}px`;
  made.setAttribute("role", "option");
  made.setAttribute("aria-selected", String(i === place));
  made.setAttribute("aria-posinset", String(i + 1));
  made.setAttribute("aria-setsize", String(view.length));
  made.addEventListener("click", () => open(i));
  return made;
}

function drawList() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 3);
  const last = Math.min(view.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 3);
  listRows.style.height = `${view.length * ROW + 12}px`;
  listRows.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, i) => row(first + i)));
  if (place >= first && place < last) list.setAttribute("aria-activedescendant", `row-${place}`);
  else list.removeAttribute("aria-activedescendant");
}

function showRow(i) {
  const top = i * ROW, bottom = top + ROW + 12;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

function open(i) {
  if (!view.length) return;
  place = Math.min(view.length - 1, Math.max(0, i));
  showRow(place);
  drawList();
  drawDocument();
}

// The document in view.
let wordElements = new Map(), sentenceElements = [], detail = null;

function drawDocument() {
  const doc = documents[view[place]];
  $("position").textContent = `${(place + 1).toLocaleString("en")} of ${view.length.toLocaleString("en")}`;
  $("previous").disabled = place === 0;
  $("next").disabled = place === view.length - 1;
  if (doc === shown) return;
  shown = doc;
  detail = decode(doc);
  wordElements = new Map();
  sentenceElements = [];
  hideTip();
  const onWord = (span, word) => wordElements.set(span, word);
  const onSentence = (made, sentence) => {
    sentenceElements.push(made);
    made.tabIndex = sentenceElements.length === 1 ? 0 : -1;
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", `Sentence ${sentenceElements.length} of ${detail.sentences.length}, ${percent(sentence.weight)} of the weight`);
  };
  $("document").replaceChildren(...article(doc, detail, onWord, onSentence));
  $("main").scrollTop = 0;
  const odds = detail.odds.slice(0, TOP_CLASSES);
  $("odds-bars").replaceChildren(...odds.map(([label, p]) =>
    element("div", label === doc.predicted ? "odd top" : "odd", element("bdi", "", classes[label]), element("span", "", percent(p)), meter(p))));
  if (numLabels > odds.length) $("odds-bars").append(element("p", "more", `${count(numLabels - odds.length, "class", "classes")} more, each less likely`));
  drawTopWords();
  drawMass();
}

function drawTopWords() {
  const shares = new Map();
  for (const word of detail.words) {
    const written = detail.points.slice(word.start, word.end).join(""), key = written.toLowerCase();
    const entry = shares.get(key) ?? { written, share: 0, times: 0 };
    entry.share += word.share;
    entry.times += 1;
    shares.set(key, entry);
  }
  const top = [...shares.values()].sort((a, b) => b.share - a.share).slice(0, TOP_WORDS);
  $("top-words").replaceChildren(...top.map(({ written, share, times }) =>
    element("li", "", element("span", "", element("bdi", "", written), times > 1 ? ` × ${times}` : ""), element("span", "", percent(share)))));
}

// Colour the fewest words that together hold the chosen part of the weight.
function drawMass() {
  const mass = Number($("mass").value) / 100;
  $("mass-shown").textContent = $("mass").value;
  let held = 0;
  const kept = new Set();
  if (mass < 1) for (const word of [...detail.words].sort((a, b) => b.share - a.share)) {
    if (held >= mass) break;
    held += word.share;
    kept.add(word);
  }
  for (const [span, word] of wordElements) {
    const step = mass === 1 || kept.has(word) ? word.step : 0;
    span.className = `w w${step}${word.unknown ? " unknown" : ""}`;
  }
}

function setMass(change) {
  $("mass").value = String(Number($("mass").value) + change);
  drawMass();
}

// The figures of the word under the pointer or in focus.
const tip = $("tip");
let described = null;

function hideTip() {
  tip.hidden = true;
  described?.removeAttribute("aria-describedby");
  described = null;
}

function showTip(span) {
  const word = wordElements.get(span);
  if (!word) return hideTip();
  hideTip();
  described = span;
  span.setAttribute("aria-describedby", "tip");
  const lift = word.lift.toFixed(word.lift < 9.95 ? 1 : 0);
  tip.textContent = `${percent(word.share)} of the weight · ${percent(word.weight)} of its sentence · ${lift} × an even share${word.unknown ? " · unknown word" : ""}`;
  tip.hidden = false;
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8));
  const below = box.bottom + 6 + tip.offsetHeight < document.documentElement.clientHeight;
  tip.style.transform = `translate(${left}px, ${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px)`;
}

function moveSentence(change) {
  if (!sentenceElements.length) return;
  const focused = sentenceElements.findIndex(made => made.contains(document.activeElement));
  const last = sentenceElements.length - 1;
  const target = focused < 0 ? (change > 0 ? 0 : last) : Math.min(last, Math.max(0, focused + change));
  sentenceElements.forEach((made, i) => { made.tabIndex = i === target ? 0 : -1; });
  sentenceElements[target].focus({ preventScroll: true });
  sentenceElements[target].scrollIntoView({ block: "nearest" });
}

function moveWord(change) {
  const sentence = sentenceElements.find(made => made.contains(document.activeElement));
  if (!sentence) return false;
  const spans = [...sentence.querySelectorAll(".w")], focused = spans.indexOf(document.activeElement);
  const target = focused < 0 ? (change > 0 ? 0 : spans.length - 1) : focused + change;
  if (!spans[target]) return true;
  spans[target].tabIndex = -1;
  spans[target].focus();
  return true;
}

// Search, filters, order.
const any = "-1", lowered = [];
const ORDERS = {
  given: ["As given", (a, b) => a - b],
  unsure: ["Least sure first", (a, b) => documents[a].p - documents[b].p || a - b],
  sure: ["Surest first", (a, b) => documents[b].p - documents[a].p || a - b],
  wrong: ["Most wrong first", (a, b) => (documents[a].truth < 0) - (documents[b].truth < 0) || documents[a].pTruth - documents[b].pTruth || a - b],
  id: ["By id", (a, b) => collator.compare(documents[a].id, documents[b].id) || a - b],
};
const collator = new Intl.Collator("en", { numeric: true });
const hasTruth = documents.some(doc => doc.truth >= 0);

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
}

function filter() {
  const wanted = $("search").value.trim().toLowerCase();
  const byTrue = Number($("by-true").value), byPredicted = Number($("by-predicted").value), outcome = $("by-outcome").value;
  if (wanted && !lowered.length) for (const doc of documents) lowered.push(`${doc.id}\n${doc.text}`.toLowerCase());
  const found = [];
  documents.forEach((doc, i) => {
    if (byTrue >= 0 && doc.truth !== byTrue || byPredicted >= 0 && doc.predicted !== byPredicted) return;
    if (outcome === "wrong" && !isWrong(doc) || outcome === "right" && (doc.truth < 0 || isWrong(doc))) return;
    if (!wanted || lowered[i].includes(wanted)) found.push(i);
  });
  view = found.sort(ORDERS[$("order").value][1]);
  $("shown").textContent = count(view.length, "document", "documents");
  $("wrong").textContent = hasTruth ? `${view.reduce((n, i) => n + isWrong(documents[i]), 0).toLocaleString("en")} wrong` : "";
  for (const button of $("confusion").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.cell === `${byTrue} ${byPredicted}`));
  list.scrollTop = 0;
  place = 0;
  if (view.length) return open(0);
  drawList();
  shown = null;
  $("document").replaceChildren(element("p", "note", "No document fits the search and the filters."));
  for (const id of ["odds-bars", "top-words"]) $(id).replaceChildren();
  $("position").textContent = "";
  $("previous").disabled = $("next").disabled = true;
  wordElements = new Map();
  sentenceElements = [];
  detail = { words: [] };
}

function drawMatrix(used) {
  const cells = new Map();
  for (const doc of documents) if (doc.truth >= 0) {
    const cell = `${doc.truth} ${doc.predicted}`;
    cells.set(cell, (cells.get(cell) ?? 0) + 1);
  }
  const most = Math.max(...cells.values());
  const head = element("tr", "", element("td", "", "true ↓ read as →"));
  const table = element("table", "", element("thead", "", head)), body = element("tbody");
  const heading = (label, scope) => {
    const made = element("th", "", classes[label]);
    made.scope = scope;
    made.title = visible(classes[label]);
    return made;
  };
  for (const label of used) head.append(heading(label, "col"));
  for (const row of used) {
    const line = element("tr", "", heading(row, "row"));
    for (const column of used) {
      const cell = `${row} ${column}`, n = cells.get(cell) ?? 0, made = element("td", row === column ? "diagonal" : "");
      if (n) {
        const button = element("button", `w${Math.ceil((STEPS - 1) * n / most)}`, String(n));
        button.type = "button";
        button.dataset.cell = cell;
        button.setAttribute("aria-label", visible(`${count(n, "document", "documents")}: in truth ${classes[row]}, read as ${classes[column]}`));
        button.addEventListener("click", () => {
          const chosen = button.getAttribute("aria-pressed") === "true";
          $("by-true").value = chosen ? any : String(row);
          $("by-predicted").value = chosen ? any : String(column);
          filter();
        });
        made.append(button);
      }
      line.append(made);
    }
    body.append(line);
  }
  table.append(body);
  $("confusion").querySelector(".matrix").replaceChildren(table);
}

function listen() {
  for (const id of ["by-true", "by-predicted", "by-outcome", "order"]) $(id).addEventListener("change", filter);
  $("search").addEventListener("input", filter);
  $("mass").addEventListener("input", drawMass);
  $("previous").addEventListener("click", () => open(place - 1));
  $("next").addEventListener("click", () => open(place + 1));
  $("help-open").addEventListener("click", () => $("help").showModal());
  list.addEventListener("scroll", drawList, { passive: true });
  addEventListener("resize", drawList);
  $("main").addEventListener("scroll", hideTip, { passive: true });
  $("document").addEventListener("pointerover", event => showTip(event.target));
  $("document").addEventListener("pointerleave", hideTip);
  $("document").addEventListener("focusin", event => showTip(event.target));
  $("document").addEventListener("focusout", hideTip);
  addEventListener("beforeprint", () => {
    $("print").replaceChildren(...view.slice(place + 1, place + PRINTED).map(i => element("article", "", ...article(documents[i], decode(documents[i])))));
  });
  addEventListener("afterprint", () => $("print").replaceChildren());
  list.addEventListener("keydown", event => {
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const target = { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + page, PageUp: place - page, Home: 0, End: view.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    open(target);
  });
  const KEYS = {
    j: () => open(place + 1), k: () => open(place - 1), n: () => moveSentence(1), p: () => moveSentence(-1),
    "/": () => $("search").focus(), "[": () => setMass(-5), "]": () => setMass(5), "?": () => $("help").showModal(),
    ArrowRight: () => moveWord(1), ArrowLeft: () => moveWord(-1), Escape: hideTip,
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.target === $("search")) return void (event.key === "Escape" && $("search").blur());
    if (event.target.matches("select") || event.target.matches("input") && event.key.startsWith("Arrow")) return;
    const act = Object.hasOwn(KEYS, event.key) && KEYS[event.key];
    if (!act) return;
    if (act() !== false && event.key !== "Escape") event.preventDefault();
  });
}

function start() {
  const truths = new Set(documents.map(doc => doc.truth)), readings = new Set(documents.map(doc => doc.predicted));
  const named = used => [...used].filter(label => label >= 0).sort((a, b) => a - b);
  options($("by-true"), [[any, "True: any"], ...named(truths).map(label => [String(label), `True: ${classes[label]}`])]);
  options($("by-predicted"), [[any, "Read as: any"], ...named(readings).map(label => [String(label), `Read as: ${classes[label]}`])]);
  options($("by-outcome"), [["any", "Any outcome"], ["right", "Right"], ["wrong", "Wrong"]]);
  options($("order"), Object.entries(ORDERS).filter(([key]) => hasTruth || key !== "wrong").map(([key, [text]]) => [key, text]));
  const used = named(new Set([...truths, ...readings]));
  $("by-true").hidden = $("by-outcome").hidden = !hasTruth;
  $("confusion").hidden = !hasTruth || used.length > MATRIX_CLASSES;
  if (!$("confusion").hidden) drawMatrix(used);
  document.body.classList.add("live");
  $("static").remove();
  $("app").hidden = $("help-open").hidden = false;
  listen();
  filter();
}

start();
})();
