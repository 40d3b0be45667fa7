// Requests /status every two seconds and shows it. Strings from outside (classes, hosts, filters) are inserted as text, never as markup.
"use strict";

const EVERY = 2000;
const $ = (id) => document.getElementById(id);
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const count = (n) => (n < 100000 ? grouped.format(n) : short.format(n));
const rate = (n) => (n < 1000 ? few.format(n) : count(n));
const share = (x) => (x * 100).toFixed(x > 0.0995 || x === 0 ? 0 : 1) + " %";
const sum = (object) => Object.values(object).reduce((a, b) => a + b, 0);

function scaled(n, base, units) {
  let i = 0;
  while (n >= base && i < units.length - 1) { n /= base; i += 1; }
  return few.format(n) + " " + units[i];
}
const bytes = (n) => scaled(n, 1024, ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]);
const bits = (n) => scaled(n, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([n]) => n > 0);
  return first < 0 ? "0 s" : parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, u]) => n + " " + u).join(" ");
}

function clock(seconds, now) {
  const at = new Date(seconds * 1000);
  const near = Math.abs(now - seconds) < 43200;
  return near ? at.toLocaleTimeString("en-GB") : at.toLocaleDateString("en-CA") + " " + at.toLocaleTimeString("en-GB");
}

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined).map((c) => (c instanceof Node ? c : String(c))));
  return node;
}
const cell = (className, ...children) => element("td", className, ...children);

function rows(id, items, columns, empty, row) {
  const none = element("tr", "", element("td", "none", empty));
  none.firstChild.colSpan = columns;
  $(id).replaceChildren(...(items.length ? items.map((item) => element("tr", "", ...row(item))) : [none]));
}

function reasons(dropped) {
  const some = Object.entries(dropped).filter(([, n]) => n > 0);
  return some.length ? element("span", "why", some.map(([reason, n]) => reason.replaceAll("_", " ") + " " + count(n)).join(", ")) : null;
}
const why = (text) => (text ? element("span", "why outside", text) : null);
// Text that may be cut off for lack of space is shown in full as a tooltip.
function titled(node, title) {
  node.title = title;
  return node;
}
const tag = (good, yes, no) => element("span", "tag " + (good ? "good" : "bad"), good ? yes : no);

// The last two minutes end at the right edge; seconds before the start are 0.
function history(seconds) {
  const frames = Array(Math.max(0, 120 - seconds.length)).fill(0).concat(seconds);
  const most = Math.max(1, ...frames);
  const points = frames.map((n, i) => [120 - frames.length + 1 + i, 31 - (n / most) * 29]);
  const line = points.map(([x, y]) => x.toFixed(1) + " " + y.toFixed(2)).join(" L");
  const [area, drawn] = $("history").children;
  drawn.setAttribute("d", "M" + line);
  area.setAttribute("d", "M" + points[0][0] + " 32 L" + line + " L120 32 Z");
}

function show(s) {
  document.title = s.sensor + " – spiked";
  $("sensor").textContent = s.sensor;
  $("about").textContent = "spiked " + s.version + ", up " + span(s.now - s.started);
  const [word, look] = s.unhealthy ? ["broken", "bad"] : s.not_ready ? ["not ready", "odd"] : ["ready", "good"];
  $("state").textContent = word;
  $("state").className = "badge " + look;
  showProblems([
    s.unhealthy,
    s.not_ready,
    s.reloads.trouble && "The last reload failed: " + s.reloads.trouble,
    s.learning.trouble && "Checkpoint failed: " + s.learning.trouble,
  ]);

  $("packets").textContent = rate(s.rates.frames_per_second);
  history(s.rates.frames);
  $("bits").textContent = bits(s.rates.bytes_per_second * 8);
  $("bytes").textContent = bytes(s.totals.bytes) + ", " + count(s.totals.frames) + " packets";
  $("detections").textContent = rate(s.rates.detections_per_second);
  $("total").textContent = count(s.totals.detections) + " since the start";
  const ended = s.totals.named + s.totals.unknown;
  $("unknown").textContent = ended ? share(s.totals.unknown / ended) : "–";
  $("reasons").replaceChildren("of ended streams", reasons(s.totals.unknown_reasons) ?? "");
  $("live").textContent = count(s.streams_live);
  $("streams").textContent = count(s.totals.streams) + " since the start";
  $("dropped").textContent = count(s.interfaces.reduce((n, i) => n + sum(i.dropped), 0));
  $("busy").textContent = s.workers.length ? share(s.workers.reduce((n, w) => n + w.busy_ratio, 0) / s.workers.length) : "–";
  $("workers").textContent = "busy, " + s.workers.length + (s.workers.length === 1 ? " worker" : " workers");

  const most = s.classes.length ? s.classes[0].detections : 1;
  const several = s.models.length > 1;
  const bar = (c) => {
    const fill = element("span", "bar");
    fill.style.width = (c.detections / most) * 100 + "%";
    const name = titled(element("span", "name", element("bdi", "", c.class), several ? element("bdi", "quiet", c.model) : null), c.class);
    return element("li", "", fill, name, element("span", "n", count(c.detections)));
  };
  $("classes").replaceChildren(...(s.classes.length ? s.classes.map(bar) : [element("li", "none", "none yet")]));

  rows("interfaces", s.interfaces, 4, "none", (i) => [
    cell("name", i.name, why(i.filter)),
    cell("", tag(i.up, "up", "down"), why(i.trouble)),
    cell("n", count(i.received)),
    cell("n", count(sum(i.dropped)), reasons(i.dropped)),
  ]);
  rows("models", s.models, 4, "none", (m) => [
    cell("name", m.name, why(m.checksum)),
    cell("", m.key + "s"),
    cell("n", count(m.classes), m.learning_accuracy === null ? null : element("span", "why", share(m.learning_accuracy) + " accuracy, learning")),
    cell("n", clock(m.loaded, s.now)),
  ]);
  rows("sinks", s.sinks, 4, "none", (k) => [
    cell("name", k.name),
    cell("", tag(!k.trouble, "ok", "failing"), why(k.trouble)),
    cell("n", count(k.written)),
    cell("n", count(sum(k.dropped)), reasons(k.dropped)),
  ]);
  showFleet(s.fleet);
  const learning = s.learning;
  $("teaching").hidden = !learning.lessons.length;
  const some = (x) => (x === null ? "–" : share(x));
  rows("tasks", learning.lessons, 6, "none", (l) => [
    cell("name", l.class, several ? why(l.model) : null),
    cell("n", some(l.accuracy)),
    cell("n", some(l.held_back)),
    cell("n", count(l.shown) + " + " + count(l.held)),
    cell("n", count(sum(l.streams)), reasons(l.streams)),
    cell("n", count(sum(l.attempts)), reasons(l.attempts)),
  ]);
  $("attacks").hidden = !s.episodes.length;
  $("episodes").parentElement.classList.toggle("one", !several);
  rows("episodes", s.episodes, 10, "none", (e) => [
    cell("quiet time", clock(e.start, s.now)),
    cell("", e.state === "end" ? "ended after " + span(e.end - e.start) : element("span", "tag bad", "lasting")),
    titled(cell("name", e.class), e.class),
    cell("outside", e.host, element("span", "why", e.role === "source" ? "begins the flows" : "is their target")),
    cell("n", e.peer ?? count(e.peers)),
    cell("n", e.ports ? count(e.ports) : "–"),
    cell("n", count(e.flows)),
    cell("n", count(e.packets)),
    cell("n", share(e.confidence)),
    cell("quiet outside", e.model),
  ]);
  $("last").parentElement.classList.toggle("one", !several);
  rows("last", s.detections, 9, "none yet", (d) => [
    cell("quiet time", clock(d.timestamp, s.now)),
    titled(cell("name", d.class), d.class),
    cell("n", share(d.confidence)),
    cell("quiet basis", d.basis),
    cell("outside", d.source),
    cell("outside", d.destination),
    cell("", d.proto),
    cell("n packets", count(d.packets)),
    cell("quiet outside", d.model),
  ]);

  const r = s.reloads;
  $("reloads").textContent = "Reloads: " + r.succeeded + " succeeded, " + r.failed + " failed" +
    (r.last_success === null ? "" : "; settings loaded " + clock(r.last_success, s.now));
  $("hardening").textContent = s.hardening.length ? "Hardening: " + s.hardening.join("; ") : "";
}

// The fleet's servers, the events that they have not acknowledged, and the models that come from them.
function showFleet(fleet) {
  $("fleet").hidden = !fleet;
  if (!fleet) return;
  const about = element("span", "quiet", " group " + fleet.group + ", " + (fleet.connected ? "server " + fleet.server + " of " : "") + fleet.servers);
  $("servers").replaceChildren(tag(fleet.connected, "connected", "no connection"), about, why(fleet.trouble) ?? "");
  const spool = fleet.spool;
  $("spool").textContent = spool ? "Spool: " + count(spool.events) + " events not acknowledged, " + bytes(spool.bytes) + " of " + bytes(spool.limit) : "";
  const look = { installed: "good", refused: "bad", waiting: "odd" };
  const outcome = { passed: ["passed", "good"], not_enough_streams: ["not enough streams", "odd"], refused: ["refused", "bad"] };
  rows("versions", fleet.models, 5, "takes none", (m) => {
    const trial = m.canary;
    const [word, colour] = trial ? outcome[trial.outcome] : [];
    return [
      cell("name", m.name, m.sha256 ? why(m.sha256.slice(0, 8)) : null),
      cell("", element("span", "tag " + look[m.state], m.state)),
      cell("n", m.version ? count(m.version) : "own"),
      trial
        ? cell("", element("span", "tag " + colour, word), element("span", "why", "version " + trial.version + ": " + count(trial.lost) + " of " + count(trial.streams) + " lost"))
        : cell("quiet", "none since the start"),
      cell("n", count(m.recent_streams)),
    ];
  });
  $("refusals").replaceChildren(...fleet.models.filter((m) => m.trouble).map((m) => why(m.name + ": " + m.trouble)));
}

function showProblems(problems) {
  const text = problems.filter(Boolean).join("\n");
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

let lastResponse = null;
async function poll() {
  if (!document.hidden) {
    try {
      const response = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(EVERY * 3) });
      if (!response.ok) throw new Error("status " + response.status);
      show(await response.json());
      lastResponse = Date.now();
    } catch (error) {
      $("state").textContent = "no response";
      $("state").className = "badge bad";
      showProblems(["No response from the daemon" + (lastResponse ? " for " + span((Date.now() - lastResponse) / 1000) : "") + " (" + error.message + "); retrying."]);
    }
  }
  setTimeout(poll, EVERY);
}
poll();
