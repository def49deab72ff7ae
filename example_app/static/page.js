// Updates the page, and submits its forms without leaving it.

const main = document.querySelector("main");
const message = document.querySelector("#message");
const PERIOD = 1000; // milliseconds between two requests for the shop's state
const TONES = {
  confirmed: "good", ready: "good",
  retained: "wait", in_flight: "wait", outboxed: "wait", connecting: "wait", stalled: "wait", blocked: "wait",
  dropped: "bad", dead: "bad", down: "bad", closed: "bad",
};

let timer;
let latest = 0;

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  const mine = ++latest;
  try {
    const response = await fetch(main.dataset.stateUrl, { signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(`the response was ${response.status}`);
    const state = await response.json();
    if (mine !== latest) return; // a newer request is in progress
    show(state);
  } catch (error) {
    if (mine !== latest) return;
    setPart(document.querySelector("#broker-state"), pill("unknown"));
    setText(document.querySelector("#broker-error"), `The shop does not respond: ${error.message}`);
  }
  timer = setTimeout(refresh, PERIOD);
}

function show(state) {
  showBroker(state.broker);
  showBooks(state.books);
  showSpool(state.books);
  showOutbox(state.outbox, state.books);
  showStock(state.products);
  fill("#events", state.events, eventCells);
  fill("#dead", state.dead, deadCells);
  fill("#orders", state.orders, orderCells);
  document.querySelector("#orders-card").hidden = state.orders.length === 0;
  document.querySelector("#no-events").hidden = state.events.length > 0;
  document.querySelector("#dead-card").hidden = state.dead.length === 0;
}

function showBroker(broker) {
  setPart(document.querySelector("#broker-state"), pill(broker.state));
  setText(document.querySelector("#broker-name"), broker.name);
  setText(document.querySelector("#broker-meaning"), broker.meaning);
  setText(document.querySelector("#broker-error"), broker.error);
}

function showBooks(books) {
  for (const tile of document.querySelectorAll("[data-book]")) {
    const key = tile.dataset.book;
    setText(tile.querySelector(".count"), books[key].toLocaleString("en"));
    // What was ever left to the outbox says nothing about now.
    tile.className = books[key] > 0 && key !== "outboxed" ? TONES[key] ?? "" : "";
  }
  const waiting = books.retained + books.in_flight;
  const text = waiting === 0
    ? "No events are waiting."
    : `${events(waiting)} waiting, the oldest for ${duration(books.oldest_age ?? 0)}.`;
  setText(document.querySelector("#backlog"), text);
}

function showSpool(books) {
  const place = document.querySelector("#on-disk");
  if (!place) return; // the backlog is in memory
  const facts = [`On disk: ${events(books.spooled)}`];
  if (books.unadopted) facts.push(`${events(books.unadopted)} left by ended processes, not adopted yet`);
  if (books.unspooled) facts.push(`${events(books.unspooled)} in memory only, because writes fail`);
  if (books.quarantined) facts.push(`damaged files quarantined: ${books.quarantined}`);
  setText(place, `${facts.join("; ")}.`);
  setText(document.querySelector("#spool-error"), books.spool_error);
}

function showOutbox(outbox, books) {
  if (!outbox) return; // it is off
  setText(document.querySelector("#outbox-rows"), `Rows waiting: ${outbox.rows.toLocaleString("en")}.`);
  setText(document.querySelector("#outbox-last"), lastRequest(outbox.last_request));
  setText(document.querySelector("#outbox-error"), books.outbox_error);
}

function lastRequest(last) {
  if (!last) return "No request has enqueued events yet.";
  const discarded = last.discarded ? `; ${events(last.discarded)} rolled back` : "";
  return `The last request left ${last.outboxed ? events(last.outboxed) : "nothing"} in it${discarded}.`;
}

function showStock(products) {
  const selected = Number(document.querySelector("#products").value);
  const product = products.find(({ id }) => id === selected);
  const left = product.stock === null ? "made to order" : `${product.stock} in stock`;
  setText(document.querySelector("#stock"), `${product.name}: ${left}.`);
}

// A cell consists of its class name and its content, pairs of class name and text.
const eventCells = (event) => [
  ["", [pill(event.state)]],
  ["", [["", event.queue], ["note", explanation(event)]]],
  ["id", [["", identity(event)]]],
  ["number", [["", duration(event.age)]]],
];

const deadCells = (group) => [
  ["", [["", group.queue], ["note", group.reason]]],
  ["number", [["", group.count]]],
  ["number", [["", group.attempts]]],
];

const orderCells = (order) => [
  ["", [["", order.id]]],
  ["", [["", order.product], ["note", new Date(order.placed_at).toLocaleTimeString("en-GB")]]],
  ["number", [["", order.quantity]]],
  ["number", [["", `€ ${order.total}`]]],
];

const pill = (state) => [`pill ${TONES[state] ?? ""}`, state];

const identity = (event) => event.id.slice(0, 8) + (event.count > 1 ? " …" : "");

function explanation(event) {
  const count = event.count > 1 ? events(event.count) : "";
  const tries = event.attempts > 1 ? `${event.attempts} attempts` : "";
  return [count, event.origin, event.reason, tries].filter(Boolean).join(", ");
}

function fill(selector, rows, cellsOf) {
  const body = document.querySelector(selector);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = body.rows[at] ?? body.insertRow();
    cellsOf(row).forEach((cell, column) => setCell(line.cells[column] ?? line.insertCell(), cell));
  });
}

function setCell(td, [className, parts]) {
  td.className = className;
  parts.forEach((part, at) => {
    setPart(td.children[at] ?? td.appendChild(document.createElement("span")), part);
  });
}

function setPart(element, [className, text]) {
  element.className = className;
  setText(element, text);
}

function setText(element, text) {
  // Unchanged text is kept, to preserve selections and to avoid repeated announcements.
  if (element.textContent !== String(text)) element.textContent = text;
}

const events = (count) => (count === 1 ? "1 event" : `${count.toLocaleString("en")} events`);

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h`;
}

async function send(submission) {
  submission.preventDefault();
  const form = submission.target;
  const buttons = form.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  try {
    const response = await fetch(form.action, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { Accept: "application/json" },
    });
    say(await answerOf(response), response.ok ? "good" : "bad");
  } catch (error) {
    say(`The shop does not respond: ${error.message}`, "bad");
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
    submission.submitter?.focus();
  }
  refresh();
}

async function answerOf(response) {
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  const text = isJson ? (await response.json()).message : response.statusText;
  return response.ok ? text : `${response.status}: ${text}`;
}

function say(text, tone) {
  setText(message, text);
  message.className = `message ${tone}`;
}

document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", send));
document.querySelector("#products").addEventListener("change", refresh);
document.addEventListener("visibilitychange", refresh);
refresh();
