// The whole set: the words that carry each class, where the model looks, whether it is right as often
// as it is sure, and how far its highlights can be trusted. Each chart has its figures as a table.

const FEW_WORDS = 12, FEW_CLASSES = 4;

const fixed = (figure, digits = 2) => figure.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace("-", "");
const times = figure => figure === null ? "" : `${fixed(figure, Math.abs(figure) < 9.95 ? 1 : 0)} ×`;

function table(caption, columns, rows) {
  const head = element("tr", "", columns.map(name => {
    const made = element("th", "", name);
    made.scope = "col";
    return made;
  }));
  const body = rows.map(([first, ...rest]) => {
    const made = element("th", "", first);
    made.scope = "row";
    return element("tr", "", made, rest.map(cell => element("td", "", cell)));
  });
  return scrolling(caption, element("table", "", element("caption", "", caption), element("thead", "", head), element("tbody", "", body)));
}
// A table may be wider than a phone; the keyboard must reach what it can be scrolled to.
function scrolling(name, made) {
  const box = element("div", "scroll", made);
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", visible(name));
  return box;
}
const inTable = (...made) => element("details", "", element("summary", "", "The figures as a table"), ...made);

// An estimate as it stands in a table: the mean, and its interval beneath.
const estimate = (figure, write = part => fixed(part)) => figure ? element("span", "estimate", write(figure.mean), ...figure.low < figure.high ? [element("small", "", `${write(figure.low)} to ${write(figure.high)}`)] : []) : "–";

// A chart with its axes. `x` and `y` are ticks: pairs of a place from 0 to 1 and its name. `draw` gets
// functions from such places to the picture's units and returns what to add.
function chart(description, { x, y, across, up, width = 400, height = 250 }, draw) {
  const left = 46, bottom = 40, right = 12, top = 12;
  const X = place => left + place * (width - left - right), Y = place => height - bottom - place * (height - top - bottom);
  const label = (attributes, text) => svgElement("text", attributes, text);
  return svgElement("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description },
    ...y.flatMap(([place, name]) => [
      svgElement("line", { class: "grid", x1: left, x2: width - right, y1: Y(place), y2: Y(place) }),
      label({ x: left - 7, y: Y(place) + 4, "text-anchor": "end" }, name),
    ]),
    ...x.map(([place, name]) => label({ x: X(place), y: height - bottom + 17, "text-anchor": "middle" }, name)),
    label({ x: X(.5), y: height - 5, "text-anchor": "middle", class: "axis" }, across),
    label({ x: -Y(.5), y: 11, "text-anchor": "middle", transform: "rotate(-90)", class: "axis" }, up),
    ...draw(X, Y));
}

// Round numbers from at most `low` to at least `high`, four to seven of them.
function ticks(low, high) {
  const wanted = (high - low || 1) / 5, power = 10 ** Math.floor(Math.log10(wanted));
  const unit = [1, 2, 5, 10].map(n => n * power).find(n => n >= wanted);
  const first = Math.floor(low / unit + 1e-9), last = Math.ceil(high / unit - 1e-9), digits = Math.max(0, -Math.floor(Math.log10(unit) + 1e-9));
  const place = figure => (figure / unit - first) / (last - first || 1);
  return { place, marks: Array.from({ length: last - first + 1 }, (_, i) => [i / (last - first || 1), fixed((first + i) * unit, digits)]) };
}

function positions({ sentences, words }) {
  const tenths = [1, 3, 5, 7, 9].map(n => [n / 10 - .05, `${10 * (n - 1)} %`]);
  const bars = (title, figures, of, across) => {
    const { place, marks } = ticks(0, Math.max(1, ...figures));
    const description = `${title}: lift by tenth of the ${of}, ${figures.map(figure => fixed(figure)).join(", ")}.`;
    return element("figure", "", element("figcaption", "", title), chart(description, { x: tenths, y: marks, across, up: "lift (1 is even)" }, (X, Y) => [
      ...figures.map((figure, i) => svgElement("rect", { class: "column", x: X(i / 10) + 2, width: X(.1) - X(0) - 4, y: Y(place(figure)), height: Y(0) - Y(place(figure)), rx: 2 })),
      svgElement("line", { class: "even", x1: X(0), x2: X(1), y1: Y(place(1)), y2: Y(place(1)) }),
    ]));
  };
  return element("section", "part", element("h2", "", "Where it looks"),
    element("p", "lede", "The weight of sentences and words by their place. At 1, the dashed line, a place has no more weight than any other."),
    element("div", "charts", bars("Sentences within the document", sentences, "document", "place in the document"), bars("Words within the sentence", words, "sentence", "place in the sentence")),
    inTable(table("Lift by place", ["Tenth", "Sentences", "Words"], sentences.map((figure, i) => [`${10 * i}–${10 * (i + 1)} %`, fixed(figure), fixed(words[i])]))));
}

function calibration({ bins, expected_error: error, documents }) {
  const fifths = [0, .2, .4, .6, .8, 1].map(place => [place, fixed(place, 1)]);
  const most = Math.max(...bins.map(bin => bin.documents));
  const description = `Reliability diagram. ${bins.map(bin => `Confidence ${percent(bin.confidence)}: ${percent(bin.accuracy)} right of ${count(bin.documents, "document", "documents")}`).join("; ")}.`;
  const drawn = chart(description, { x: fifths, y: fifths, across: "confidence", up: "part that is right" }, (X, Y) => [
    ...bins.map(bin => svgElement("rect", { class: "column", x: X(bin.low) + 1, width: Math.max(1, X(bin.high) - X(bin.low) - 2), y: Y(bin.accuracy), height: Y(0) - Y(bin.accuracy), rx: 2 })),
    svgElement("line", { class: "even", x1: X(0), x2: X(1), y1: Y(0), y2: Y(1) }),
    ...bins.map(bin => svgElement("circle", { class: "dot", cx: X(bin.confidence), cy: Y(bin.accuracy), r: 3.5 })),
  ]);
  const counts = chart(`How many documents: ${bins.map(bin => `${bin.documents.toLocaleString("en")} from ${fixed(bin.low)} to ${fixed(bin.high)}`).join("; ")}.`,
    { x: fifths, y: [[0, "0"], [1, most.toLocaleString("en")]], across: "confidence", up: "documents" }, (X, Y) =>
      bins.map(bin => svgElement("rect", { class: "column quiet", x: X(bin.low) + 1, width: Math.max(1, X(bin.high) - X(bin.low) - 2), y: Y(bin.documents / most), height: Y(0) - Y(bin.documents / most), rx: 2 })));
  const bias = bins.reduce((sum, bin) => sum + bin.documents * (bin.confidence - bin.accuracy), 0) / documents;
  return element("section", "part", element("h2", "", "Is it right as often as it is sure?"),
    element("p", "lede", "Documents by the probability of their predicted class. On the dashed line the model is right as often as it says; ",
      `here it is on average ${Math.abs(bias) < .0005 ? "as sure as it is right" : bias > 0 ? "too sure of itself" : "too modest"}. Expected calibration error: `, element("b", "", fixed(error, 3)), `, over ${count(documents, "document", "documents")}.`),
    element("div", "charts", element("figure", "", element("figcaption", "", "Confidence and accuracy"), drawn), element("figure", "", element("figcaption", "", "How many documents"), counts)),
    inTable(table("Calibration", ["Confidence", "Documents", "Mean confidence", "Accuracy"],
      bins.map(bin => [`${fixed(bin.low)} to ${fixed(bin.high)}`, bin.documents.toLocaleString("en"), fixed(bin.confidence, 3), fixed(bin.accuracy, 3)]))));
}

// Words of one class at a time, in order of any column.
function classWords({ classes, method }, { openExample, searchWord }) {
  const known = classes.filter(({ words }) => words.length);
  for (const { words } of known) words.forEach((word, i) => { word.rank = i + 1; });
  const methods = [...new Set(known.flatMap(({ words }) => words.flatMap(({ scores }) => Object.keys(scores))))];
  const COLUMNS = [
    ["#", ({ rank }) => rank, false],
    ["Word", ({ word }) => word, false],
    ["Mean share", ({ share }) => share, true],
    ["Lift", ({ lift }) => lift, true],
    ...methods.map(method => [methodName(method), ({ scores }) => Object.hasOwn(scores, method) ? scores[method] : null, true]),
    ["Occurrences", ({ occurrences }) => occurrences, true],
    ["Documents", ({ documents }) => documents, true],
  ];
  let chosen = known.reduce((best, each) => each.documents > best.documents ? each : best, known[0]), column = 0, descending = false, all = false;
  const body = element("tbody"), lede = element("p", "lede"), more = button("more-words", "", () => { all = true; draw(); });
  const collator = new Intl.Collator("en");

  const headings = COLUMNS.map(([name], i) => {
    const made = element("th", i > 3 ? "number extra" : i > 1 ? "number" : "", button("", name, () => {
      descending = column === i ? !descending : COLUMNS[i][2];
      column = i;
      draw();
    }));
    made.scope = "col";
    return made;
  });
  const context = element("th", "examples", "In context");
  context.scope = "col";

  function example({ id, position, before, word, after }) {
    const made = button("example", "", () => openExample(position));
    made.append(element("span", "", before), element("b", "", word), element("span", "", after));
    made.dir = "auto";
    made.title = visible(id);
    return made;
  }

  function row(entry) {
    const heading = element("th", "", button("word", entry.word, () => searchWord(entry.word, chosen.label)));
    heading.scope = "row";
    if (entry.unknown) heading.firstChild.classList.add("unknown");
    heading.append(meter(entry.weight / (chosen.words[0].weight || 1)));
    return element("tr", "", element("td", "rank", String(entry.rank)), heading,
      element("td", "number", percent(entry.share)),
      element("td", "number", times(entry.lift)),
      ...methods.map(method => element("td", "number extra", Object.hasOwn(entry.scores, method) ? signed(entry.scores[method]) : "")),
      element("td", "number extra", entry.occurrences.toLocaleString("en")),
      element("td", "number extra", entry.documents.toLocaleString("en")),
      element("td", "examples", entry.examples.map(example)));
  }

  function draw() {
    const key = COLUMNS[column][1];
    const compare = (a, b) => typeof key(a) === "string" ? collator.compare(key(a), key(b)) : (key(a) ?? -Infinity) - (key(b) ?? -Infinity);
    const words = [...chosen.words].sort((a, b) => descending ? compare(b, a) : compare(a, b)), shown = all ? words : words.slice(0, FEW_WORDS);
    headings.forEach((made, i) => made.setAttribute("aria-sort", i !== column ? "none" : descending ? "descending" : "ascending"));
    lede.replaceChildren(visible(`By ${methodName(method)}, in the ${count(chosen.documents, "document", "documents")} read as `), element("b", "", element("bdi", "", chosen.label)),
      ". A word leads to its documents, an example to its place.");
    refill(body, shown.map(row));
    more.hidden = shown.length === words.length;
    more.textContent = `Show all ${words.length} words`;
    for (const made of choice.querySelectorAll("button")) made.setAttribute("aria-pressed", String(known[Number(made.dataset.label)] === chosen));
  }

  const choose = i => {
    chosen = known[i];
    all = false;
    draw();
  };
  const choice = element("div", "class-choice");
  choice.setAttribute("role", "group");
  choice.setAttribute("aria-label", "Class");
  if (known.length <= FEW_CLASSES) {
    const segments = element("div", "segments", known.map(({ label }, i) => {
      const made = button("", label, () => choose(i));
      made.dataset.label = String(i);
      made.title = visible(label);
      return made;
    }));
    choice.append(segments);
  } else {
    const select = element("select");
    select.setAttribute("aria-label", "Class");
    options(select, known.map(({ label, documents }, i) => [String(i), `${label} (${documents.toLocaleString("en")})`]));
    select.value = String(known.indexOf(chosen));
    select.addEventListener("change", () => choose(Number(select.value)));
    choice.append(select);
  }
  draw();
  return element("section", "part", element("h2", "", "Words that carry each class"), choice, lede,
    scrolling("Words that carry the class", element("table", "class-words", element("thead", "", element("tr", "", ...headings, context)), body)), more);
}

// Curves of each ranking over the bins, with their intervals; a line's dashes and marks tell it apart too.
const MARKS = [
  (x, y) => svgElement("circle", { cx: x, cy: y, r: 4 }),
  (x, y) => svgElement("rect", { x: x - 3.5, y: y - 3.5, width: 7, height: 7 }),
  (x, y) => svgElement("path", { d: `M${x} ${y - 4.5} l4.5 8 h-9 z` }),
  (x, y) => svgElement("path", { d: `M${x} ${y - 5} l5 5 l-5 5 l-5 -5 z` }),
  (x, y) => svgElement("path", { d: `M${x} ${y + 4.5} l4.5 -8 h-9 z` }),
];

function faithfulnessPart({ documents, words: number, bins, methods, uniform, divergence, seed, left_out: leftOut }) {
  const style = i => `line ${methods[i].method === "random" ? "random" : `line-${i % MARKS.length}`}`;
  const mark = (i, x, y) => methods[i].method === "random" ? svgElement("path", { class: "cross", d: `M${x - 4} ${y - 4} l8 8 m0 -8 l-8 8` }) : MARKS[i % MARKS.length](x, y);
  const at = i => (i + .5) / bins.length;
  const curves = (title, of, meaning) => {
    const all = methods.flatMap(method => method[of]);
    const { place, marks } = ticks(Math.min(0, ...all.map(({ low }) => low)), Math.max(0, ...all.map(({ high }) => high)));
    const description = `${title}. ${methods.map(method => `${methodName(method.method)}: ${method[of].map(({ mean }) => fixed(mean)).join(", ")}`).join("; ")}.`;
    return element("figure", "", element("figcaption", "", title, element("small", "", meaning)),
      chart(visible(description), { x: bins.map((bin, i) => [at(i), `${fixed(100 * bin, 0)} %`]), y: marks, across: "part of the words", up: "fall of the probability" }, (X, Y) => methods.map((method, i) => {
        const points = method[of].map(({ mean, low, high }, j) => ({ x: X(at(j)), y: Y(place(mean)), low: Y(place(low)), high: Y(place(high)) }));
        const path = points.map(({ x, y }, j) => `${j ? "L" : "M"}${x} ${y}`).join("");
        const band = `M${points.map(({ x, high }) => `${x} ${high}`).join("L")}L${points.toReversed().map(({ x, low }) => `${x} ${low}`).join("L")}Z`;
        return svgElement("g", { class: style(i) }, svgElement("path", { class: "band", d: band }), svgElement("path", { class: "curve", d: path }), ...points.map(({ x, y }) => mark(i, x, y)));
      })));
  };
  const legend = element("ul", "legend-lines", ...methods.map(({ method }, i) => element("li", "",
    svgElement("svg", { width: 34, height: 14, "aria-hidden": "true" }, svgElement("g", { class: style(i) }, svgElement("path", { class: "curve", d: "M1 7 H33" }), mark(i, 17, 7))), element("span", "", methodName(method)))));
  const thousandths = figure => fixed(figure, 3), ranked = methods.filter(({ rank_agreement: agreement }) => Object.keys(agreement).length);
  const part = element("section", "part", element("h2", "", "How far the highlights can be trusted"),
    element("p", "lede", `${count(documents, "document", "documents")} were classified again with words taken away, in the order of each method and in random order${leftOut ? `; ${count(leftOut, "more was", "more were")} too long for that` : ""}. Bands are intervals of 95 %.`),
    legend,
    element("div", "charts", curves("Comprehensiveness", "comprehensiveness", "without the words with most weight: more is better"), curves("Sufficiency", "sufficiency", "with those words alone: less is better")),
    table("What each ranking is worth", ["Method", "Comprehensiveness", "Over random", "Sufficiency", "Words to change the label", "Sentences to change it", "Label changed"],
      methods.map(method => [methodName(method.method), estimate(method.aopc_comprehensiveness, thousandths), estimate(method.over_random, times),
        estimate(method.aopc_sufficiency, thousandths), estimate(method.word_flip, percent), estimate(method.sentence_flip, percent), percent(method.flipped)])));
  if (ranked.length) {
    part.append(table("Rank agreement between methods (Kendall’s τ-b, of the absolute figures)", ["Method", ...ranked.map(({ method }) => methodName(method))],
      ranked.map(({ method, rank_agreement: agreement }) => [methodName(method), ...ranked.map(other => Object.hasOwn(agreement, other.method) ? estimate(agreement[other.method]) : other.method === method ? "" : "–")])));
  }
  if (methods.some(({ rationales }) => rationales)) {
    part.append(table("Agreement with what people marked", ["Method", "Documents", "Precision", "Recall", "F1", "IOU-F1", "AUPRC"],
      methods.flatMap(({ method, rationales: marked }) => marked ? [[methodName(method), marked.documents.toLocaleString("en"), ...["precision", "recall", "f1", "iou_f1", "auprc"].map(figure => estimate(marked[figure]))]] : [])));
  }
  if (uniform || divergence.length) {
    const accuracy = figure => figure === null ? "–" : fixed(figure, 3);
    part.append(table("With other attention on the same documents", ["Attention", "Same label", "Probability changes by", "Accuracy", "Attention differs by (bits)"], [
      ...uniform ? [["as trained", "100 %", "0", accuracy(uniform.accuracy), "0"],
        ["the same on every word and sentence", percent(uniform.same_label), estimate(uniform.probability_change, thousandths), accuracy(uniform.uniform_accuracy), "–"]] : [],
      ...divergence.map(({ model, words, same_label: same }) => [`of ${model}`, percent(same), "–", "–", estimate(words, thousandths)]),
    ]));
  }
  part.append(element("p", "small", `${count(number, "word", "words")}, seed ${seed}.`));
  return part;
}

// Draw the whole set into `root`. `openExample(position)` shows a document, `searchWord(word, label)` those
// with a word that were read as a class.
function drawOverview(root, { overview, faithfulness, ...acts }) {
  if (faithfulness?.summary.length) {
    const [first, ...rest] = faithfulness.summary.map(sentence => element("p", "", sentence));
    root.append(element("section", "part short", element("h2", "", "In short"), first, element("div", "", ...rest)));
  }
  if (overview.classes.some(({ words }) => words.length)) root.append(classWords(overview, acts));
  if (overview.positions) root.append(positions(overview.positions));
  if (overview.calibration) root.append(calibration(overview.calibration));
  if (faithfulness) root.append(faithfulnessPart(faithfulness));
  if (!root.children.length) root.append(element("p", "note", "Too few words to say anything of the whole set."));
}
