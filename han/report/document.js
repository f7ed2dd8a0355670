// One document with its controls: what the model read it as, the text with a bar beside each sentence
// and coloured words, the switches for method and class, the figures of each word.
//
//   const view = createDocumentView(root, { classes, methods, models, label });
//   view.show(record);
//
// `root` is an empty element, which becomes the view. `classes` names every class, `methods` the
// methods that documents may have (the first is "attention"), `models` the models that explain each
// document, if there are several, `label` the class to explain at first (its place in `classes`; by
// default each document's predicted one). `record` is what `encode_document` of `han.report.html` makes, one
// for each model. The view lays itself out by its own width, so that two fit beside each other.
//
//   show(...records)   draw a document, keeping method, class and mass
//   clear(note)        draw nothing but a note
//   choose({ model, method, label })   what to show; `label` null is the class that was predicted
//   choice()           the same, as it is now
//   article(records)   an article of another document with the same choice, for print
//   keys               what to do at a key, for `listenToKeys`
//   figures            the element below the controls, to which a page may add sections

const STEPS = 9, SCALE = 1e6, QUANTUM = 2047, TOP_WORDS = 10, TOP_CLASSES = 8;
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const VALUE = new Map([...DIGITS].map((digit, i) => [digit, i]));
const METHODS = new Map([
  ["attention", { name: "attention" }],
  ["attention_gradient", { name: "attention × gradient" }],
  ["gradient", { name: "input × gradient" }],
  ["occlusion", { name: "occlusion", probability: true }],
]);
const UNDRAWN = "This document cannot be drawn: its figures are damaged.";
const methodName = method => METHODS.get(method)?.name ?? method;

// Text becomes part of the page here and nowhere else: as text, with control characters made visible.
const visible = text => text.replace(/[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]/g, c => {
  const code = c.charCodeAt(0);
  return code < 32 ? String.fromCharCode(0x2400 + code) : code === 127 ? "\u2421" : "\ufffd";
});
// Children are texts, elements and lists of them. A call takes so many arguments only: lists are appended
// one by one.
const append = (made, ...children) => {
  for (const child of children.flat()) made.append(typeof child === "string" ? visible(child) : child);
  return made;
};
const refill = (made, ...children) => {
  made.replaceChildren();
  return append(made, ...children);
};
const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  return append(made, ...children);
};
const svgElement = (tag, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return append(made, ...children);
};
const meter = share => svgElement("svg", { class: "meter", "aria-hidden": "true" }, svgElement("rect", { width: `${100 * share}%`, height: "100%" }));
const button = (className, text, act) => {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
};
const options = (select, pairs) => refill(select, pairs.map(([value, text]) => {
  const option = element("option", "", text);
  option.value = value;
  return option;
}));

const percent = share =>
  share > 0 && share < .0005 ? "< 0.1 %"
  : share >= .9995 && share < 1 ? "> 99.9 %"
  : share === 0 || share === 1 || share >= .0995 && share < .985 ? `${Math.floor(100 * share + .5)} %`
  : `${(Math.floor(1000 * share + .5) / 10).toFixed(1)} %`;
const signed = figure => {
  const size = Math.abs(figure), written = size.toFixed(size >= 9.95 ? 1 : size >= .0995 ? 2 : 3);
  return Number(written) ? `${figure < 0 ? "−" : "+"}${written}` : "0";
};
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
// What a document is read as, and what it is in truth: one class, or any number of labels.
const givenTo = doc => doc.given ? doc.given.map(([label]) => label) : [doc.predicted];
const truthsOf = doc => doc.truths ?? (doc.truth >= 0 ? [doc.truth] : null);
const isWrong = doc => {
  const given = givenTo(doc), truths = truthsOf(doc);
  return truths !== null && (truths.length !== given.length || truths.some(label => !given.includes(label)));
};

// A record's numbers: five bits a character, the lowest first; the last is below 32.
function decode(doc) {
  const encoded = doc.figures;
  let i = 0;
  const next = () => {
    for (let number = 0, unit = 1; ; unit *= 32) {
      const digit = VALUE.get(encoded[i++]);
      if (digit === undefined) throw new RangeError("The figures of a document break off.");
      number += (digit % 32) * unit;
      if (digit < 32) return number;
    }
  };
  const numLabels = next();
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
  for (const sentence of sentences) for (const word of sentence.words) word.lift = word.share * sentences.length * sentence.words.length;
  const words = sentences.flatMap(sentence => sentence.words);
  // Spans count code points; a JavaScript string counts UTF-16 units.
  return { numLabels, odds, cuts, sentences, words, points: Array.from(doc.text), readings: readings(doc, words, sentences) };
}

// What each method says: `read(label)` gives a figure and a step for each word and each sentence.
function readings(doc, words, sentences) {
  const most = figures => figures.reduce((top, figure) => Math.max(top, Math.abs(figure)), 0) || 1;
  const step = (figure, top) => Math.sign(figure) * Math.floor((STEPS - 1) * Math.abs(figure) / top + .5);
  const scale = (figures, top) => figures.map(figure => figure / top);
  const display = words.map(word => word.display), weights = sentences.map(sentence => sentence.weight), top = most(display);
  const found = new Map([["attention", { labels: [], read: () => ({
    words: words.map(word => word.share), steps: display.map(figure => step(figure, top)),
    sentences: weights, heights: scale(weights, most(weights)),
  }) }]]);
  const figures = ([largest, digits]) => Array.from({ length: digits.length / 2 }, (_, i) =>
    (64 * VALUE.get(digits[2 * i]) + VALUE.get(digits[2 * i + 1]) - QUANTUM) / QUANTUM * largest);
  for (const [method, wordTop, sentenceTop, columns] of doc.scores ?? []) {
    found.set(method, { labels: doc.scored, read: label => {
      const [ofWords, ofSentences] = columns[Math.max(0, doc.scored.indexOf(label))].map(figures);
      return {
        words: ofWords, steps: ofWords.map(figure => step(figure, wordTop || 1)),
        sentences: ofSentences, heights: scale(ofSentences, sentenceTop || 1),
      };
    } });
  }
  return found;
}

const PARAGRAPH = /\n\s*\n|\r\s*\r|<br\s*\/?>|\u2029/i;
const within = (spans, start, end) =>
  spans.map(([first, last]) => [Math.max(first, start), Math.min(last, end)]).filter(([first, last]) => first < last);

// The heading of a document and its text, whose words and sentences `paint` colours.
function drawDocument(doc, detail, classes) {
  const { odds, cuts, sentences, points } = detail;
  const slice = (start, end) => points.slice(start, end).join("");
  const named = (className, label) => element("b", className, element("bdi", "", classes[label]));
  const verdict = element("p", "verdict", "Read as "), given = givenTo(doc), truths = truthsOf(doc);
  (doc.given ?? [[doc.predicted, doc.p]]).forEach(([label, p], i) => verdict.append(i ? ", " : "", named("", label), ` with ${percent(p / SCALE)}`));
  if (!given.length) verdict.append("none of the labels");
  if (truths === null) verdict.append(".");
  else if (isWrong(doc)) {
    verdict.append(doc.given ? "; in truth " : ", in truth ", truths.length ? "" : "none of them");
    truths.forEach((label, i) => verdict.append(i ? ", " : "", named(given.includes(label) ? "" : "wrong", label)));
    verdict.append(".");
  } else verdict.append(", which is right.");
  const head = element("div", "head", element("h2", "", element("bdi", "", doc.id)), verdict,
    element("p", "odds", odds.map(([label, p]) => element("span", "", element("bdi", "", classes[label]), ` ${percent(p)} `))));
  const text = element("div", "text"), spans = [], blocks = [];
  if (!detail.words.length) text.append(element("p", "note", "This document has no words: the class comes from the classifier’s bias alone."));
  if (cuts.length) text.append(element("p", "note", "Hatched text was not read, because of a length limit."));
  let at = 0;
  const block = (start, end, sentence, paragraphs) => {
    const gutter = element("div", "gutter"), made = element("div", "block", gutter, element("div", "", paragraphs.map(children => {
      const p = element("p", "", children);
      p.dir = "auto";
      return p;
    })));
    if (at && PARAGRAPH.test(slice(at, start))) made.classList.add("paragraph");
    if (sentence) {
      const figure = element("span"), rect = svgElement("rect", { width: "100%" });
      gutter.append(figure, svgElement("svg", { class: "bar", "aria-hidden": "true" }, rect));
      blocks.push({ made, figure, rect });
    }
    text.append(made);
    at = end;
  };
  const cutBlocks = end => within(cuts, at, end).forEach(([first, last]) => block(first, last, null, [[element("span", "cut", slice(first, last))]]));
  for (const sentence of sentences) {
    cutBlocks(sentence.start);
    const marks = [...within(cuts, sentence.start, sentence.end).map(([start, end]) => ({ start, end })), ...sentence.words];
    const paragraphs = [[]]; // of a sentence that is the whole document there may be several
    const between = (start, end) => slice(start, end).split(PARAGRAPH).forEach((text, i, { length }) => {
      if (i && paragraphs.at(-1).length) paragraphs.push([]);
      if (length === 1 || text.trim()) paragraphs.at(-1).push(text);
    });
    let from = sentence.start;
    for (const mark of marks.sort((a, b) => a.start - b.start)) {
      const span = element("span", "cut", slice(mark.start, mark.end));
      between(from, mark.start);
      paragraphs.at(-1).push(span);
      if (mark.weight !== undefined) spans.push(span);
      from = mark.end;
    }
    between(from, sentence.end);
    block(sentence.start, sentence.end, sentence, paragraphs);
  }
  cutBlocks(points.length);
  return { head, text, spans, blocks };
}

// Colour the fewest words that together hold `mass` of the figures, and fill the sentences' bars:
// for the class in orange, underlined, from below; against it in blue, overlined, from above.
function paint({ spans, blocks }, { words }, reading, isSigned, mass) {
  const size = i => Math.abs(reading.words[i]), kept = new Set();
  if (mass < 1) {
    const wanted = mass * reading.words.reduce((sum, figure) => sum + Math.abs(figure), 0);
    let held = 0;
    for (const i of [...words.keys()].sort((a, b) => size(b) - size(a))) {
      if (held >= wanted) break;
      held += size(i);
      kept.add(i);
    }
  }
  spans.forEach((span, i) => {
    const step = mass === 1 || kept.has(i) ? reading.steps[i] : 0;
    span.className = `w ${step < 0 ? "a" : "w"}${Math.abs(step)}${words[i].unknown ? " unknown" : ""}`;
  });
  const highest = reading.heights.reduce((top, height) => Math.max(top, Math.abs(height)), 0);
  blocks.forEach(({ made, figure, rect }, i) => {
    const height = Math.min(1, Math.abs(reading.heights[i])), against = reading.heights[i] < 0;
    figure.textContent = isSigned ? signed(reading.sentences[i]) : percent(reading.sentences[i]);
    rect.setAttribute("class", against ? "against" : "");
    rect.setAttribute("y", against ? "0" : `${100 - 100 * height}%`);
    rect.setAttribute("height", `${100 * height}%`);
    made.classList.toggle("key", highest > 0 && Math.abs(reading.heights[i]) === highest);
  });
}

function createDocumentView(root, { classes, methods = ["attention"], models = [], label = null }) {
  let records = [], doc = null, detail = null, drawn = null, reading = null;
  let model = 0, method = "attention", mass = 1;

  const section = (title, ...children) => element("section", "", element("h3", "", title), children);
  const labelled = (text, control) => {
    control.setAttribute("aria-label", text);
    return control;
  };
  const article = element("article"), tip = element("div", "tip");
  const modelSelect = labelled("Model", element("select")), labelSelect = labelled("Class to explain", element("select"));
  const segments = element("div", "segments", methods.map(name => {
    const made = button("", methodName(name), () => choose({ method: name }));
    made.dataset.method = name;
    made.title = visible(methodName(name));
    return made;
  }));
  segments.setAttribute("role", "group");
  segments.setAttribute("aria-label", "Highlight by");
  const slider = element("input"), sliderShown = element("output", "", "100"), ramp = element("div", "ramp"), rampEnds = element("p", "ramp-ends");
  Object.assign(slider, { type: "range", min: "5", max: "100", step: "5", value: "100" });
  const oddsBars = element("div"), topWords = element("ol", "words"), topTitle = element("h3");
  const modelSection = section("Model", modelSelect), methodSection = section("Highlight by", segments), labelSection = section("For the class", labelSelect);
  methodSection.className = "by";
  const slide = element("section", "", element("h3", "", element("label", "", "Top ", sliderShown, " % of the weight", slider)));
  const oddsSection = section("Classes", oddsBars);
  const controls = element("div", "controls", methodSection, modelSection, labelSection, slide, element("section", "scale", ramp, rampEnds));
  const figures = element("div", "figures", oddsSection, element("section", "", topTitle, topWords));
  const side = element("div", "side", controls, figures);
  tip.setAttribute("role", "tooltip");
  tip.id = `tip-${document.querySelectorAll(".tip").length}`;
  tip.hidden = true;
  ramp.setAttribute("aria-hidden", "true");
  options(modelSelect, models.map((name, i) => [String(i), name]));
  modelSection.hidden = models.length < 2;
  methodSection.hidden = labelSection.hidden = methods.length < 2;
  root.classList.add("view");
  root.append(element("div", "pane", article, side));
  (root.closest("main") ?? document.body).append(tip);

  // A document that lacks the chosen method is shown by attention, one that lacks the class by its own.
  const shownMethod = of => of.readings.has(method) ? method : "attention";
  const shownLabel = (of, labels) => labels.includes(label) ? label : of.predicted;

  function read(of, ofDetail) {
    const by = shownMethod(ofDetail), { labels, read } = ofDetail.readings.get(by), chosen = shownLabel(of, labels);
    return { method: by, label: chosen, labels, isSigned: by !== "attention", ...read(chosen) };
  }

  // One document that cannot be drawn must not keep the others from it.
  function show(...given) {
    try {
      draw(given);
    } catch (error) {
      clear(UNDRAWN);
      console.error(error);
    }
  }

  function draw(given) {
    const next = given[Math.min(model, given.length - 1)];
    records = given;
    if (next !== doc) {
      doc = next;
      detail = decode(doc);
      drawn = drawDocument(doc, detail, classes);
      article.replaceChildren(drawn.head, drawn.text);
      drawn.blocks.forEach(({ made }, i) => {
        made.tabIndex = i ? -1 : 0;
        made.setAttribute("role", "group");
      });
      side.hidden = false;
    }
    update();
  }

  function clear(note) {
    records = [];
    doc = detail = drawn = reading = null;
    hideTip();
    side.hidden = true;
    article.replaceChildren(element("p", "note", note));
  }

  function choose(choice) {
    if (choice.model !== undefined) model = choice.model;
    if (choice.method !== undefined) method = choice.method;
    if (choice.label !== undefined) label = choice.label;
    if (records.length) show(...records);
  }

  function update() {
    hideTip();
    reading = read(doc, detail);
    modelSelect.value = String(model);
    for (const made of segments.children) {
      made.setAttribute("aria-pressed", String(made.dataset.method === reading.method));
      made.disabled = !detail.readings.has(made.dataset.method);
    }
    labelSelect.disabled = !reading.isSigned;
    const given = givenTo(doc), truths = truthsOf(doc) ?? [];
    const role = of => given.includes(of) ? truths.includes(of) ? " (predicted, true)" : " (predicted)" : truths.includes(of) ? " (true)" : "";
    options(labelSelect, reading.isSigned ? reading.labels.map(of => [String(of), `${classes[of]}${role(of)}`]) : [["", "any"]]);
    labelSelect.value = reading.isSigned ? String(reading.label) : "";
    const odds = detail.odds.slice(0, TOP_CLASSES);
    refill(oddsBars, odds.map(([of, p]) =>
      element("div", given.includes(of) ? "odd top" : "odd", element("bdi", "", classes[of]), element("span", "", percent(p)), meter(p))));
    const rest = detail.numLabels - odds.length;
    if (rest > 0) oddsBars.append(element("p", "more", `${count(rest, "class", "classes")} more, each less likely`));
    const steps = Array.from({ length: STEPS }, (_, i) => i);
    refill(ramp, reading.isSigned ? steps.slice(1).reverse().map(step => element("span", `w a${step}`)) : [], steps.map(step => element("span", `w w${step}`)));
    refill(rampEnds, reading.isSigned
      ? ["against ", "for "].map(way => element("span", "", way, element("bdi", "", classes[reading.label])))
      : [element("span", "", "less weight"), element("span", "", "more")]);
    drawTopWords();
    drawMass();
    drawn.blocks.forEach(({ made }, i) => made.setAttribute("aria-label", `Sentence ${i + 1} of ${drawn.blocks.length}, ` +
      (reading.isSigned ? visible(`${signed(reading.sentences[i])} for ${classes[reading.label]}`) : `${percent(reading.sentences[i])} of the weight`)));
  }

  function drawMass() {
    mass = Number(slider.value) / 100;
    sliderShown.textContent = slider.value;
    if (drawn) paint(drawn, detail, reading, reading.isSigned, mass);
  }

  function setMass(change) {
    slider.value = String(Number(slider.value) + change);
    drawMass();
  }

  function drawTopWords() {
    const sums = new Map();
    detail.words.forEach((word, i) => {
      const written = detail.points.slice(word.start, word.end).join(""), key = written.toLowerCase();
      const entry = sums.get(key) ?? { written, sum: 0, times: 0 };
      entry.sum += reading.words[i];
      entry.times += 1;
      sums.set(key, entry);
    });
    const top = [...sums.values()].filter(({ sum }) => sum).sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum)).slice(0, TOP_WORDS);
    topTitle.textContent = reading.isSigned ? "Words for and against" : "Words with most weight";
    refill(topWords, top.map(({ written, sum, times }) =>
      element("li", sum < 0 ? "against" : "", element("span", "", element("bdi", "", written), times > 1 ? ` × ${times}` : ""),
        element("span", "", reading.isSigned ? signed(sum) : percent(sum)))));
  }

  // The figures of the word under the pointer or in focus.
  let described = null;

  function hideTip() {
    tip.hidden = true;
    described?.removeAttribute("aria-describedby");
    described = null;
  }

  function showTip(span) {
    const i = drawn ? drawn.spans.indexOf(span) : -1;
    hideTip();
    if (i < 0) return;
    described = span;
    span.setAttribute("aria-describedby", tip.id);
    const word = detail.words[i], figure = reading.words[i], lift = word.lift.toFixed(word.lift < 9.95 ? 1 : 0);
    const attention = `${percent(word.share)} of the weight · ${percent(word.weight)} of its sentence · ${lift} × an even share`;
    const points = `${Math.abs(100 * figure).toFixed(Math.abs(figure) < .0995 ? 1 : 0)} points`;
    const parts = !reading.isSigned ? [attention]
      : METHODS.get(reading.method)?.probability ? ["without it ", element("bdi", "", classes[reading.label]), ` ${figure < 0 ? "gains" : "loses"} ${points} of probability`]
      : [`${signed(figure)} to the logit of `, element("bdi", "", classes[reading.label])];
    if (reading.isSigned) parts.push(` · ${percent(word.share)} of the attention`);
    tip.replaceChildren(element("span", "", parts, word.unknown ? " · unknown word" : ""));
    tip.hidden = false;
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8));
    const below = box.bottom + 6 + tip.offsetHeight < document.documentElement.clientHeight;
    tip.style.transform = `translate(${left}px, ${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px)`;
  }

  function moveSentence(change) {
    if (!drawn?.blocks.length) return false;
    const blocks = drawn.blocks.map(({ made }) => made), last = blocks.length - 1;
    const focused = blocks.findIndex(made => made.contains(document.activeElement));
    const target = focused < 0 ? (change > 0 ? 0 : last) : Math.min(last, Math.max(0, focused + change));
    blocks.forEach((made, i) => { made.tabIndex = i === target ? 0 : -1; });
    blocks[target].focus({ preventScroll: true });
    blocks[target].scrollIntoView({ block: "nearest" });
  }

  function moveWord(change) {
    const sentence = drawn?.blocks.find(({ made }) => made.contains(document.activeElement))?.made;
    if (!sentence) return false;
    const spans = [...sentence.querySelectorAll(".w")], focused = spans.indexOf(document.activeElement);
    const target = focused < 0 ? (change > 0 ? 0 : spans.length - 1) : focused + change;
    if (!spans[target]) return;
    spans[target].tabIndex = -1;
    spans[target].focus();
  }

  function nextMethod() {
    const known = methods.filter(name => detail?.readings.has(name));
    if (known.length < 2) return false;
    choose({ method: known[(known.indexOf(reading.method) + 1) % known.length] });
  }

  modelSelect.addEventListener("change", () => choose({ model: Number(modelSelect.value) }));
  labelSelect.addEventListener("change", () => {
    const chosen = Number(labelSelect.value);
    choose({ label: chosen === doc.predicted ? null : chosen });
  });
  slider.addEventListener("input", drawMass);
  article.addEventListener("pointerover", event => showTip(event.target));
  article.addEventListener("pointerleave", hideTip);
  article.addEventListener("focusin", event => showTip(event.target));
  article.addEventListener("focusout", hideTip);
  document.addEventListener("scroll", hideTip, { passive: true, capture: true });
  clear("");

  return {
    show, clear, choose, figures,
    choice: () => ({ model, method: reading?.method ?? method, label: reading?.label ?? label, labels: reading?.labels ?? [] }),
    article: given => {
      try {
        const of = given[Math.min(model, given.length - 1)], ofDetail = decode(of), made = drawDocument(of, ofDetail, classes), by = read(of, ofDetail);
        paint(made, ofDetail, by, by.isSigned, 1);
        return element("article", "", made.head, made.text);
      } catch (error) {
        console.error(error);
        return element("article", "", element("p", "note", UNDRAWN));
      }
    },
    keys: {
      n: () => moveSentence(1), p: () => moveSentence(-1), ArrowRight: () => moveWord(1), ArrowLeft: () => moveWord(-1),
      "[": () => setMass(-5), "]": () => setMass(5), m: nextMethod, Escape: hideTip,
    },
  };
}

// Call `keys()[key]` at a key that nothing else wants; what returns false leaves the key to the browser.
function listenToKeys(keys) {
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const { target, key } = event;
    if (target.matches("textarea, select, [contenteditable], input:not([type=range], [type=checkbox])")) return;
    if (target.matches("input, [role=tab]") && key.startsWith("Arrow")) return;
    const known = keys();
    if (Object.hasOwn(known, key) && known[key]() !== false && key !== "Escape") event.preventDefault();
  });
}
