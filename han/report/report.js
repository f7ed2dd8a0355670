// A report: the list of documents with its search and filters, the views of the document that was
// chosen, the tabs. The documents come compressed in the element `data`.

const ROW = 56, PRINTED = 50, MATRIX_CLASSES = 40;
const $ = id => document.getElementById(id);

async function unpack(packed) {
  const characters = atob(packed), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i); // `from` takes a second for 20 MB
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function startReport({ classes, methods, models, label, documents, others, overview, faithfulness }) {
  others.forEach((doc, i) => { doc.id = documents[i].id; doc.text = documents[i].text; });
  const records = i => others.length ? [documents[i], others[i]] : [documents[i]];
  const several = documents.some(doc => doc.given);
  const hasTruth = documents.some(doc => truthsOf(doc) !== null);

  // The list: only the rows in view are in the page.
  let view = [], place = 0;
  const list = $("list"), listRows = $("rows");

  function row(i) {
    const doc = documents[view[i]], label = element("bdi", isWrong(doc) ? "wrong" : "", (isWrong(doc) ? "✗ " : "") + (givenTo(doc).map(of => classes[of]).join(", ") || "no label"));
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
    made.addEventListener("click", () => openRow(i));
    return made;
  }

  function drawList() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 3);
    const last = Math.min(view.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 3);
    listRows.style.height = `${view.length * ROW + 12}px`;
    refill(listRows, Array.from({ length: Math.max(0, last - first) }, (_, i) => row(first + i)));
    if (place >= first && place < last) list.setAttribute("aria-activedescendant", `row-${place}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function showRow(i) {
    const top = i * ROW, bottom = top + ROW + 12;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  }

  function openRow(i) {
    if (!view.length) return;
    place = Math.min(view.length - 1, Math.max(0, i));
    showRow(place);
    drawList();
    drawDocuments();
  }

  function openDocument(i) {
    if (!view.includes(i)) clearFilters();
    openRow(view.indexOf(i));
  }

  // The document in view, once, or twice to compare models, methods or classes.
  const settings = { classes, methods, models, label };
  const views = [createDocumentView($("view-1"), settings)];
  let comparing = false, shown = -1;

  function drawDocuments() {
    const changed = shown !== view[place];
    shown = view[place];
    $("position").textContent = `${(place + 1).toLocaleString("en")} of ${view.length.toLocaleString("en")}`;
    $("previous").disabled = place === 0;
    $("next").disabled = place === view.length - 1;
    for (const each of views.slice(0, comparing ? 2 : 1)) each.show(...records(shown));
    if (changed) {
      $("reader").scrollTop = 0;
      remember();
    }
  }

  function drawNothing() {
    for (const each of views) each.clear("No document fits the search and the filters.");
    shown = -1;
    $("position").textContent = "";
    $("previous").disabled = $("next").disabled = true;
  }

  function compare(wanted) {
    comparing = wanted;
    $("compare-open").setAttribute("aria-pressed", String(comparing));
    $("views").classList.toggle("two", comparing);
    $("view-2").hidden = !comparing;
    if (!comparing) return;
    if (views.length === 1) views.push(createDocumentView($("view-2"), settings));
    const { model, method, label: chosen, labels } = views[0].choice();
    if (models.length > 1) views[1].choose({ model: 1 - model, method, label });
    else if (method === "attention") views[1].choose({ method: methods[1] });
    else views[1].choose({ method, label: labels.find(other => other !== chosen) ?? null });
    if (shown >= 0) views[1].show(...records(shown));
    else views[1].clear("No document fits the search and the filters.");
  }

  // Search, filters, order.
  const any = "-1", lowered = [], collator = new Intl.Collator("en", { numeric: true });
  const ORDERS = {
    given: ["As given", (a, b) => a - b],
    unsure: ["Least sure first", (a, b) => documents[a].p - documents[b].p || a - b],
    sure: ["Surest first", (a, b) => documents[b].p - documents[a].p || a - b],
    wrong: ["Most wrong first", (a, b) => (documents[a].truth < 0) - (documents[b].truth < 0) || documents[a].pTruth - documents[b].pTruth || a - b],
    id: ["By id", (a, b) => collator.compare(documents[a].id, documents[b].id) || a - b],
  };
  const OUTCOMES = {
    any: ["Any outcome", () => true],
    right: ["Right", i => truthsOf(documents[i]) !== null && !isWrong(documents[i])],
    wrong: ["Wrong", i => isWrong(documents[i])],
    differ: ["Models differ", i => String(givenTo(documents[i]).sort()) !== String(givenTo(others[i]).sort())],
  };

  function filter() {
    const wanted = $("search").value.trim().toLowerCase();
    const byTrue = Number($("by-true").value), byPredicted = Number($("by-predicted").value), fits = OUTCOMES[$("by-outcome").value][1];
    if (wanted && !lowered.length) for (const doc of documents) lowered.push(`${doc.id}\n${doc.text}`.toLowerCase());
    const found = [];
    documents.forEach((doc, i) => {
      if (byTrue >= 0 && !truthsOf(doc)?.includes(byTrue) || byPredicted >= 0 && !givenTo(doc).includes(byPredicted)) return;
      if (fits(i) && (!wanted || lowered[i].includes(wanted))) found.push(i);
    });
    view = found.sort(ORDERS[$("order").value][1]);
    $("shown").textContent = count(view.length, "document", "documents");
    $("wrong").textContent = hasTruth ? `${view.reduce((n, i) => n + isWrong(documents[i]), 0).toLocaleString("en")} wrong` : "";
    for (const cell of $("confusion").querySelectorAll("button")) cell.setAttribute("aria-pressed", String(cell.dataset.cell === `${byTrue} ${byPredicted}`));
    list.scrollTop = 0;
    place = 0;
    if (view.length) return openRow(0);
    drawList();
    drawNothing();
  }

  function clearFilters() {
    $("search").value = "";
    $("by-true").value = $("by-predicted").value = any;
    $("by-outcome").value = "any";
    filter();
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
          const choice = button(`w${Math.ceil((STEPS - 1) * n / most)}`, String(n), () => {
            const chosen = choice.getAttribute("aria-pressed") === "true";
            $("by-true").value = chosen ? any : String(row);
            $("by-predicted").value = chosen ? any : String(column);
            filter();
          });
          choice.dataset.cell = cell;
          choice.setAttribute("aria-label", visible(`${count(n, "document", "documents")}: in truth ${classes[row]}, read as ${classes[column]}`));
          made.append(choice);
        }
        line.append(made);
      }
      body.append(line);
    }
    table.append(body);
    $("confusion").querySelector(".matrix").replaceChildren(table);
  }

  // The whole set is drawn when it is first looked at.
  const TABS = ["documents", "whole-set"];
  let tab = "documents";

  function showTab(wanted) {
    tab = wanted;
    for (const name of TABS) {
      $(name).hidden = name !== tab;
      $(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
      $(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
    }
    $("compare-open").disabled = tab !== "documents";
    if (tab === "whole-set" && !$(tab).children.length) drawOverview($(tab), { overview, faithfulness, openExample, searchWord });
    if (tab === "documents") drawList();
    remember();
  }

  function openExample(position) {
    showTab("documents");
    openDocument(position);
  }

  function searchWord(word, label) {
    showTab("documents");
    clearFilters();
    $("search").value = word;
    $("by-predicted").value = String(classes.indexOf(label));
    filter();
  }

  // The place in the report is kept in the address, so that a page loaded again shows it. It is written
  // with a delay, because browsers refuse changes in quick succession.
  let writing = 0;

  function remember() {
    clearTimeout(writing);
    writing = setTimeout(() => {
      const wanted = tab === "documents" ? `#document-${shown + 1}` : `#${tab}`;
      if (location.hash !== wanted && (shown >= 0 || tab !== "documents")) history.replaceState(null, "", wanted);
    }, 300);
  }

  function recall(hash) {
    const i = Number(/^#document-(\d+)$/.exec(hash)?.[1]) - 1;
    if (hash === "#whole-set") showTab("whole-set");
    else if (documents[i]) {
      showTab("documents");
      openDocument(i);
    }
  }

  const KEYS = {
    j: () => openRow(place + 1), k: () => openRow(place - 1), "/": () => $("search").focus(),
    c: () => $("compare-open").click(),
  };

  function listen() {
    for (const id of ["by-true", "by-predicted", "by-outcome", "order"]) $(id).addEventListener("change", filter);
    $("search").addEventListener("input", filter);
    $("search").addEventListener("keydown", event => event.key === "Escape" && $("search").blur());
    $("previous").addEventListener("click", () => openRow(place - 1));
    $("next").addEventListener("click", () => openRow(place + 1));
    $("help-open").addEventListener("click", () => $("help").showModal());
    $("compare-open").addEventListener("click", () => compare(!comparing));
    list.addEventListener("scroll", drawList, { passive: true });
    addEventListener("resize", drawList);
    addEventListener("hashchange", () => recall(location.hash));
    for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => showTab(name));
    $("tab-documents").parentElement.addEventListener("keydown", event => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      showTab(TABS[1 - TABS.indexOf(tab)]);
      $(`tab-${tab}`).focus();
    });
    addEventListener("beforeprint", () => {
      if (tab !== "documents") return;
      refill($("print"), view.slice(place + 1, place + PRINTED).map(i => views[0].article(records(i))));
    });
    addEventListener("afterprint", () => $("print").replaceChildren());
    list.addEventListener("keydown", event => {
      const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
      const target = { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + page, PageUp: place - page, Home: 0, End: view.length - 1 }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      openRow(target);
    });
    const inFocus = () => comparing && $("view-2").contains(document.activeElement) ? views[1] : views[0];
    const help = { "?": () => $("help").showModal() };
    listenToKeys(() => tab === "documents" ? { ...inFocus().keys, ...KEYS, ...help } : help);
  }

  const named = used => [...used].filter(label => label >= 0).sort((a, b) => a - b);
  const truths = named(new Set(documents.flatMap(doc => truthsOf(doc) ?? []))), predictions = named(new Set(documents.flatMap(givenTo)));
  const used = named(new Set([...truths, ...predictions]));
  options($("by-true"), [[any, "True: any"], ...truths.map(label => [String(label), `True: ${classes[label]}`])]);
  options($("by-predicted"), [[any, "Read as: any"], ...predictions.map(label => [String(label), `Read as: ${classes[label]}`])]);
  const outcomes = Object.keys(OUTCOMES).filter(key => key === "any" || (key === "differ" ? others.length : hasTruth));
  options($("by-outcome"), outcomes.map(key => [key, OUTCOMES[key][0]]));
  options($("order"), Object.entries(ORDERS).filter(([key]) => hasTruth && !several || key !== "wrong").map(([key, [text]]) => [key, text]));
  $("by-true").hidden = !hasTruth;
  $("by-outcome").hidden = outcomes.length < 2;
  $("confusion").hidden = !hasTruth || several || used.length > MATRIX_CLASSES;
  $("compare-open").hidden = methods.length < 2 && models.length < 2;
  if (!$("confusion").hidden) drawMatrix(used);
  if (faithfulness?.summary.length) {
    views[0].figures.append(element("section", "trust", element("h3", "", "Can it be trusted?"), element("p", "", faithfulness.summary[0]),
      button("more", "Figures of the whole set", () => showTab("whole-set"))));
  }
  views[0].figures.append($("keys"));
  document.body.classList.add("live");
  $("static").hidden = true;
  $("app").hidden = $("tools").hidden = false;
  listen();
  filter();
  recall(location.hash);
  $("static").remove();
}

const packed = $("data").textContent.trim();
$("data").remove();
try {
  startReport(await unpack(packed));
} catch (error) { // what the page holds without scripts is better than nothing
  for (const id of ["app", "tools"]) $(id).hidden = true;
  document.body.classList.remove("live");
  $("static")?.classList.remove("waiting");
  if (typeof DecompressionStream !== "undefined") throw error;
  $("outdated").hidden = false;
}
