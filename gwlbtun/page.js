
// Keeps the figures of the page fresh: asks for json, which lies beside the page, and shows rates where it has two reports.

const WINDOW_S = 120;            // of the charts
const POLL_MS = 1000;
const BYTES_PER_MS = 400;        // of reports; with very many endpoints the page asks less often
const PATIENCE_MS = 12_000;      // for an answer; the server gives up on one after 10 s
const GAP_S = 30;                // reports so far apart are not compared;
const SLACK_S = 10;              // nor those for which the clocks of daemon and browser differ by more
const ORDER_MS = 5000;           // how long rows stay in their order: rows that jump cannot be read
const SMOOTH = 0.7;              // how much of an old rate counts in the order
const ENDPOINTS = 100, THREADS = 12, REASONS = 20;  // as page.py has them
const KINDS = {Tcp: "TCP", Udp: "UDP", Other: "other"};
const UP_MS = 10_000;            // so old must the page be before it loads itself anew

const find = (selector, inside = document) => inside.querySelector(selector);
const findAll = (selector, inside = document) => [...inside.querySelectorAll(selector)];

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ---- Figures as text: as page.py writes them

const count = (value) => Math.round(value).toLocaleString("en-US");

function scaled(value, unit = "") {
  let size = 0;
  for (; value >= 999.5 && size < 4; size++) value /= 1000;
  let digits = value >= 9.95 || Number.isInteger(value) ? 0 : 1;
  if (size) digits = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${["", "k", "M", "G", "T"][size]}${unit}`.trimEnd();
}

function span(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  let left = Math.round(seconds);
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const number = Math.floor(left / size);
    left %= size;
    if (number || parts.length) parts.push(`${number} ${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

// ---- What reports say

function at(report, path) {
  if (path === "dropped") return sum(Object.values(report.drops)) + report.udp.UDPPacketReceiver.socketDrops;
  if (path === "hooksRun") return sum(Object.values(report.hooks).map((runs) => runs.ok + runs.failed));
  return path.split(".").reduce((value, key) => value[key], report);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

// A counter's rate from one report to the next. None after a gap, or when the counter began anew.
class Rate {
  constructor() {
    this.now = null;
    this.smooth = 0;
    this.points = [];  // [time, rate] of the last while; a rate of null is a gap
  }

  take(value, time, seconds) {
    const passed = seconds && this.value !== undefined && value >= this.value;
    this.now = passed ? (value - this.value) / seconds : null;
    this.value = value;
    if (passed) this.smooth = SMOOTH * this.smooth + (1 - SMOOTH) * this.now;
    this.points.push([time, this.now]);
    while (this.points[0][0] < time - WINDOW_S) this.points.shift();
  }

  peak() {
    return Math.max(...this.points.map(([, value]) => value), 0);
  }

  text(unit, factor = 1) {
    return this.now === null ? "–" : scaled(this.now * factor, unit);
  }

  perSecond() {
    return this.now === null ? "–" : `${scaled(this.now)}/s`;
  }
}

function ratesOf(names) {
  return Object.fromEntries(names.map((name) => [name, new Rate()]));
}

// ---- Charts

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240, HEIGHT = 40;

function makeChart(svg) {
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  for (const name of ["area", "line"]) svg.append(document.createElementNS(SVG, "path"));
  svg.firstChild.setAttribute("class", "area");
  svg.lastChild.setAttribute("class", "line");
}

function draw(svg, rate, time) {
  if (!svg.firstChild) makeChart(svg);
  const peak = Math.max(rate.peak(), 1);
  let area = "", line = "", begun = null, x = 0;
  const end = () => {
    if (begun !== null) area += `V${HEIGHT}H${begun}Z`;
    begun = null;
  };
  for (const [when, value] of rate.points) {
    if (value === null) {
      end();
      continue;
    }
    x = Math.round(10 * WIDTH * (1 - (time - when) / WINDOW_S)) / 10;
    const y = Math.round(10 * (HEIGHT - 1) * (1 - value / peak)) / 10 + 1;
    line += `${begun === null ? "M" : "L"}${x} ${y}`;
    area += begun === null ? `M${x} ${HEIGHT}V${y}` : `L${x} ${y}`;
    if (begun === null) begun = x;
  }
  end();
  svg.firstChild.setAttribute("d", area);
  svg.lastChild.setAttribute("d", line);
}

// ---- Figures outside of tables

const formats = {count, bytes: (value) => scaled(value, "B"), time: span, text: String};
const rateFormats = {
  rate: (rate) => rate.text(), bits: (rate) => rate.text("bit/s", 8), peak: (rate) => `peak ${scaled(rate.peak())}`,
};
const figures = marked(Object.keys(formats));
const rateFigures = marked([...Object.keys(rateFormats), "chart"]);
const shares = findAll("[data-share]");
const rates = new Map(rateFigures.map(([, , path]) => [path, new Rate()]));

// The elements with marks of these kinds, each with its kind and its path in the report.
function marked(kinds) {
  return kinds.flatMap((kind) => findAll(`[data-${kind}]`).map((element) => [element, kind, element.dataset[kind]]));
}

function showFigures(report, time, seconds) {
  for (const [element, kind, path] of figures) say(element, formats[kind](at(report, path)));
  for (const meter of shares) {
    const {size, bound} = at(report, meter.dataset.share);
    meter.value = size / Math.max(bound, 1);
  }
  for (const [path, rate] of rates) rate.take(at(report, path), time, seconds);
  for (const [element, kind, path] of rateFigures) {
    const rate = rates.get(path);
    if (kind === "chart") draw(element, rate, time);
    else say(element, rateFormats[kind](rate));
  }
  for (const element of findAll("[data-some]")) element.hidden = !at(report, element.dataset.some);
  for (const element of findAll("[data-none]")) element.hidden = Boolean(at(report, element.dataset.none));
}

// ---- Tables

// The rows with the most traffic, or with trouble, of what may be thousands.
class Table {
  constructor(name, most) {
    this.body = find(`#${name}`);
    this.rest = find(`#${name}-rest`);
    this.template = find(`#${name}-row`).content.firstElementChild;
    this.most = most;
    this.items = new Map();  // by key; each has bad, load, rates and what fill() shows
    this.order = [];
    this.orderedAt = -Infinity;
  }

  // The item of this key, new if need be. Those that are not asked for until show() are forgotten.
  item(key, names, round) {
    if (!this.items.has(key)) this.items.set(key, {rates: ratesOf(names)});
    const item = this.items.get(key);
    item.round = round;
    return item;
  }

  show(round, matches, what) {
    for (const [key, item] of this.items) if (item.round !== round) this.items.delete(key);
    const found = [...this.items.values()].filter(matches);
    this.putInOrder(found);
    const shown = this.order.slice(0, this.most), left = this.order.slice(this.most);
    for (const item of shown) {
      item.row ??= this.makeRow();
      item.fill(item.row);
    }
    for (const item of left) item.row = undefined;
    this.place(shown.map((item) => item.row.element));
    const load = sum(left.map((item) => item.load()));
    say(this.rest, left.length ? `${count(left.length)} more ${what}, with ${scaled(load)} packets/s together.` : "");
  }

  // When it is time, or when there are others.
  putInOrder(found) {
    const known = new Set(this.order), now = performance.now();
    if (now < this.orderedAt + ORDER_MS && found.length === known.size && found.every((item) => known.has(item))) return;
    this.order = found.sort((one, other) => other.bad - one.bad || other.load() - one.load() || other.total - one.total);
    this.orderedAt = now;
  }

  // These rows and no others, such as those that the server has rendered. Rows that stay are not touched.
  place(elements) {
    const wanted = new Set(elements);
    for (const element of [...this.body.childNodes]) if (!wanted.has(element)) element.remove();
    elements.forEach((element, index) => {
      const there = this.body.children[index] ?? null;
      if (there !== element) this.body.insertBefore(element, there);
    });
  }

  makeRow() {
    const element = document.importNode(this.template, true);
    const cells = Object.fromEntries(findAll("[data-cell]", element).map((cell) => [cell.dataset.cell, cell]));
    return {element, cells, charts: findAll("[data-cell-chart]", element), meter: find("meter", element)};
  }
}

function fill(row, texts, bad) {
  for (const [name, text] of Object.entries(texts)) say(row.cells[name], text);
  row.element.className = bad ? "bad" : "";
}

const endpoints = new Table("endpoints", ENDPOINTS);
const threads = new Table("threads", THREADS);
const filter = find("#filter");

function takeEndpoint(eni, round, time, seconds) {
  const {tunnelIn, tunnelOut} = eni;
  const item = endpoints.item(eni.eniStr, ["in", "inBytes", "back", "backBytes"], round);
  const counts = {
    in: eni.pktsOut, inBytes: eni.bytesOut,
    back: tunnelIn.pktsSent + tunnelOut.pktsSent, backBytes: tunnelIn.bytesSent + tunnelOut.bytesSent,
  };
  for (const [name, rate] of Object.entries(item.rates)) rate.take(counts[name], time, seconds);
  const flows = Object.keys(KINDS).map((kind) => [kind, eni[`v4FlowCache${kind}`].size + eni[`v6FlowCache${kind}`].size]);
  item.bad = !eni.healthy;
  item.total = counts.in + counts.back;
  item.load = () => item.rates.in.smooth + item.rates.back.smooth;
  item.words = [eni.name, eni.gwlbEndpointId, tunnelIn.devname, tunnelOut.devname, eni.state].join("\n").toLowerCase();
  item.fill = (row) => {
    fill(row, {
      name: eni.name ?? "", id: eni.gwlbEndpointId, device: tunnelIn.devname, state: eni.state, failure: eni.failure,
      inRate: item.rates.in.perSecond(), inBits: item.rates.inBytes.text("bit/s", 8),
      backRate: item.rates.back.perSecond(), backBits: item.rates.backBytes.text("bit/s", 8),
      inCount: count(counts.in), backCount: count(counts.back),
      flows: count(sum(flows.map(([, size]) => size))),
      kinds: flows.filter(([, size]) => size).map(([kind, size]) => `${count(size)} ${KINDS[kind]}`).join(", "),
      dropped: count(eni.pktsDropped), age: span(eni.secsSinceLastPacket),
    }, item.bad);
    for (const svg of row.charts) draw(svg, item.rates[svg.dataset.cellChart], time);
  };
}

function takeThread(thread, name, eni, round, time, seconds) {
  const item = threads.item(`${eni?.eniStr} ${name} ${thread.threadNumber}`, ["load"], round);
  const endpoint = eni && (eni.name || (name.includes("-") ? "" : eni.gwlbEndpointId));
  item.bad = !thread.healthy;
  item.total = thread.pktsIn + (thread.pktsOut ?? 0);
  item.rates.load.take(item.total, time, seconds);
  item.load = () => item.rates.load.smooth;
  item.fill = (row) => {
    fill(row, {
      thread: `${name} ${thread.threadNumber}`, load: item.rates.load.text(),
      about: [endpoint, `ID ${thread.threadId}`, item.bad && "dead"].filter(Boolean).join(", "),
    }, item.bad);
    row.meter.value = (item.rates.load.now ?? 0) / Math.max(busiest, 1);
  };
}

let busiest = 0;

function takeTables(report, round, time, seconds) {
  for (const thread of report.udp.UDPPacketReceiver.threads) takeThread(thread, "receiver", null, round, time, seconds);
  for (const eni of report.enis) {
    takeEndpoint(eni, round, time, seconds);
    for (const tunnel of [eni.tunnelIn, eni.tunnelOut]) {
      for (const thread of tunnel.threads) takeThread(thread, tunnel.devname, eni, round, time, seconds);
    }
  }
}

function showTables(round) {
  busiest = 0;
  for (const item of threads.items.values()) busiest = Math.max(busiest, item.rates.load.now ?? 0);
  const wanted = filter.value.trim().toLowerCase();
  endpoints.show(round, (item) => item.words.includes(wanted), "endpoints");
  threads.show(round, () => true, "threads");
}

// ---- The verdict

const pageVersion = find('[data-text="version"]').textContent;
const startedAt = performance.now();

function showVerdict(report) {
  const {reasons} = report;
  const verdict = reasons.length ? "Unhealthy" : "Healthy";
  setVerdict(reasons.length ? "bad" : "good", verdict, reasons.length > REASONS
    ? [...reasons.slice(0, REASONS), `and ${reasons.length - REASONS} more`] : reasons);
  showLines(find("#notes"), report.notes);
}

function setVerdict(kind, verdict, lines) {
  find("#verdict").className = kind;
  find("main").classList.toggle("old", kind === "lost");
  say(find("h1"), verdict);
  document.title = `${verdict}: gwlbtun ${location.host}`;
  showLines(find("#reasons"), lines);
}

function showLines(list, lines) {
  if (lines.join("\n") !== findAll("li", list).map((item) => item.textContent).join("\n")) {
    list.replaceChildren(...lines.map((line) => {
      const item = document.createElement("li");
      item.textContent = line;
      return item;
    }));
  }
}

// ---- Asking

let last = null;       // the newest report
let lastAt = 0;        // when it came, by this browser's clock, in seconds
let round = 0;
let paused = false;
let timer = null;
let asking = false;

// The time between two reports, by the daemon's clock. 0: they cannot be compared, as it began anew or they are too far apart.
function secondsSince(report, time) {
  const seconds = last ? report.uptimeSecs - last.uptimeSecs : 0;
  return seconds > 0 && seconds < GAP_S && Math.abs(time - lastAt - seconds) < SLACK_S ? seconds : 0;
}

function take(report) {
  const time = Date.now() / 1000;
  showVerdict(report);
  say(find("#link"), paused ? "paused" : "live");
  if (last && report.uptimeSecs === last.uptimeSecs) return;  // the same report, which many share
  if (report.version !== pageVersion && performance.now() > startedAt + UP_MS) location.reload();
  const seconds = secondsSince(report, time);
  round++;
  showFigures(report, time, seconds);
  takeTables(report, round, time, seconds);
  showTables(round);
  last = report;
  lastAt = time;
}

async function ask() {
  let report = null, size = 0;
  asking = true;
  try {
    const answer = await fetch("json", {cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS)});
    const text = await answer.text();  // whatever the status: an unhealthy daemon answers 503
    size = text.length;
    report = JSON.parse(text);
  } catch {
    // It is away, or on its way up. The next try is due soon.
  }
  asking = false;
  try {
    if (report) take(report);
    else lose();
  } finally {
    schedule(Math.max(POLL_MS, size / BYTES_PER_MS));
  }
}

function lose() {
  const since = last ? new Date(lastAt * 1000).toLocaleTimeString([], {hourCycle: "h23"}) : "when the page was loaded";
  setVerdict("lost", "No answer", [`gwlbtun does not answer. The figures are those of ${since}.`]);
  say(find("#link"), "old");
}

function schedule(pause) {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(ask, pause);
}

function resume() {
  if (!asking) schedule(0);
}

find("#pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", paused);
  say(find("#link"), paused ? "paused" : "live");
  resume();
});
filter.addEventListener("input", () => last && showTables(round));
document.addEventListener("visibilitychange", resume);

if (location.pathname.endsWith("/")) history.replaceState(null, "", location.pathname.replace(/\/+$/, ""));
document.documentElement.classList.add("live");
for (const id of ["live", "filter-line"]) find(`#${id}`).hidden = false;
say(find("#host"), location.host);
say(find("#span"), `Rates now, and over the last ${WINDOW_S / 60} minutes.`);
say(find("#threads-unit"), "Packets/s");
resume();
