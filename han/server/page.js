// The local page: classify and explain what is in the text field, as it changes.

const $ = id => document.getElementById(id);
const { classes, methods, limits } = JSON.parse($("facts").textContent);
const PAUSE = 120, LONGEST_PAUSE = 500, IDLE = 800, QUICK = 5_000; // milliseconds; characters
const longest = limits.attention;
const FAST = ["attention", "attention_gradient"];

const view = createDocumentView($("view"), { classes, methods });
const text = $("text");
let title = "", timer = 0, request = null, lastTook = 0, changed = null;
const NOTHING = "The document appears here as you type.";
const tooLong = what => `${what} is too long for this page: up to ${count(longest, "character", "characters")} are read. The command han explain has no such limit.`;

function say(message, isError = false) {
  $("status").textContent = message;
  $("status").classList.toggle("wrong", isError);
}

// What the server says of the text, or null where a newer request has taken this one's place.
async function ask(written, wanted) {
  request?.abort();
  const own = request = new AbortController();
  try {
    const response = await fetch("/draw", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ text: written, methods: wanted }),
      signal: own.signal,
    });
    const record = await response.json();
    if (own !== request) return null;
    return response.ok ? record : record.error;
  } catch {
    return own === request ? "The server does not answer. Is it still running?" : null;
  }
}

// Read the text by the methods wanted; `isExtra` where what is shown stays good if that fails.
async function read(wanted, isExtra = false) {
  // A lone surrogate cannot be sent.
  const written = text.value.toWellFormed?.() ?? text.value;
  const started = performance.now();
  clearTimeout(timer);
  changed = null;
  $("clear").disabled = !written;
  if (!written.trim() || written.length > 2 * longest) {
    request?.abort();
    request = null;
    lastTook = 0;
    if (!written) title = "";
    say(written.trim() ? tooLong("The text") : "", true);
    return view.clear(NOTHING);
  }
  if (!isExtra) $("view").classList.add("old");
  const answer = await ask(written, wanted);
  if (answer === null) return;
  $("view").classList.remove("old");
  if (typeof answer === "string") {
    if (isExtra) return;
    say(answer, true);
    return view.clear("There is nothing to show for this text.");
  }
  lastTook = performance.now() - started;
  view.show({ ...answer, id: title || "Your text" });
  if (isExtra) return;
  say(`${count(written.length, "character", "characters")}, read in ${Math.ceil(lastTook)} ms`);
  if (wanted.length < possible().length) timer = setTimeout(read, IDLE, possible(), true);
}

// Of a short text all methods at once; of a longer one those that are cheap or looked at, then all.
const possible = () => methods.filter(method => text.value.length <= limits[method] || method === "attention");
const readNow = () => read(possible().filter(method => text.value.length <= QUICK || FAST.includes(method) || method === view.choice().method));

// When nothing more has been typed for a moment, or something for a while. A long text, which takes
// long to read and to draw, waits for the end.
function readSoon() {
  clearTimeout(timer);
  if (lastTook >= PAUSE) request?.abort();
  changed ??= performance.now();
  const left = lastTook < PAUSE ? changed + LONGEST_PAUSE - performance.now() : Infinity;
  timer = setTimeout(readNow, Math.max(0, Math.min(Math.max(PAUSE, lastTook), left)));
}

async function open(file) {
  const name = visible(file.name);
  if (file.size > 8 * longest) return say(tooLong(name), true);
  try {
    text.value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch (error) {
    return say(error instanceof TypeError ? `${name} is no text in UTF-8.` : `${name} cannot be read.`, true);
  }
  title = file.name;
  text.scrollTop = 0;
  readNow();
}

const holdsFile = event => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", event => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  $("drop").hidden = false;
});
addEventListener("dragleave", event => { $("drop").hidden = event.relatedTarget === null; });
addEventListener("drop", event => {
  $("drop").hidden = true;
  if (!holdsFile(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  if ($("file").files.length) open($("file").files[0]);
  $("file").value = ""; // so that the same file can be chosen again
});
$("clear").addEventListener("click", () => {
  text.value = "";
  readNow();
  text.focus();
});
text.addEventListener("input", readSoon);
text.addEventListener("keydown", event => event.key === "Escape" && $("reader").focus());
$("help-open").addEventListener("click", () => $("help").showModal());
listenToKeys(() => ({ ...view.keys, "/": () => text.focus(), "?": () => $("help").showModal() }));
view.figures.append($("keys"));
text.focus();
readNow(); // a browser may have kept what was typed before the page was loaded anew
