// A table: read in the browser, sent in small requests, shown, sorted and downloaded.

import { call } from "./api.js";
import { format, readTable, textColumns } from "./csv.js";
import { bar, byId, hideTrouble, make, onDrop, percent, showTrouble } from "./dom.js";

const TOGETHER = 32, PAGE = 100, MOST_BYTES = 50e6;
let model = () => null;
let table = null, results = [], labels = [], name = "", shown = PAGE;
let order = { key: "number", down: false };
let running = null; // an AbortController

export function start(chosenModel) {
  model = chosenModel;
  onDrop(byId("panel-table"), open);
  byId("file").addEventListener("change", ({ target }) => { if (target.files[0]) open(target.files[0]); target.value = ""; });
  byId("start").addEventListener("click", classify);
  byId("stop").addEventListener("click", () => running?.abort());
  byId("download").addEventListener("click", download);
  byId("more").addEventListener("click", () => { shown += PAGE; showRows(); });
}

export async function open(file) {
  running?.abort();
  hideTrouble();
  if (file.size > MOST_BYTES) return showTrouble({ message: "This file is larger than 50 MB. newslora predict on the command line takes files of any size." });
  table = readTable(file.name, await file.text());
  if (!table.rows.length) return showTrouble({ message: `${file.name} holds no rows. It should be a table with a header, or a text file with one article a line.` });
  name = file.name;
  results = [];
  byId("plan").hidden = false;
  for (const id of ["done", "download", "running"]) byId(id).hidden = true;
  byId("file-name").textContent = `${name}, ${table.rows.length.toLocaleString("en")} rows`;
  const chosen = textColumns(table);
  const boxes = table.columns.map((title, i) => make("label", {}, make("input", { type: "checkbox", value: i, checked: chosen.includes(i) ? "" : undefined }), title));
  byId("columns").replaceChildren(byId("columns").querySelector("legend"), ...boxes);
  return byId("start").focus();
}

const chosenColumns = () => [...byId("columns").querySelectorAll(":checked")].map(({ value }) => Number(value));

async function classify() {
  const columns = chosenColumns();
  hideTrouble();
  if (!columns.length) return showTrouble({ message: "No column is chosen. Please choose where the text stands." });
  const texts = table.rows.map((row) => columns.map((i) => row[i].trim()).filter(Boolean).join(" ").slice(0, 50000));
  begin();
  try {
    await classifyAll(texts, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") showTrouble(error, classify);
  }
  return end();
}

function begin() {
  running = new AbortController();
  results = [];
  labels = model().labels;
  shown = PAGE;
  order = { key: "number", down: false };
  for (const id of ["running", "stop"]) byId(id).hidden = false;
  for (const id of ["start", "download", "done"]) byId(id).hidden = true;
}

function end() {
  running = null;
  byId("stop").hidden = true;
  byId("start").hidden = false;
  byId("start").textContent = "Classify again";
  if (!results.length) return;
  for (const id of ["done", "download"]) byId(id).hidden = false;
  showTally();
  showHead();
  showRows();
}

async function classifyAll(texts, signal) {
  const started = performance.now();
  const adapter = model().name;
  for (let place = 0; place < texts.length; place += TOGETHER) {
    progress(place, texts.length, started);
    const part = texts.slice(place, place + TOGETHER);
    const answers = await patiently(() => classifyPart(part, adapter, signal), signal);
    results.push(...answers.map((answer, i) => ({ number: place + i + 1, text: part[i], ...answer })));
  }
  progress(texts.length, texts.length, started);
}

async function classifyPart(part, adapter, signal) {
  // An empty cell is not sent; what else holds no words comes back with the reason.
  const sent = part.filter(Boolean);
  const answered = sent.length ? [...(await call("v1/classify", { texts: sent, adapter }, signal)).results] : [];
  return part.map((text) => {
    const answer = text ? answered.shift() : { error: "no text" };
    return answer.error ? { fault: answer.error.replace(/ \(.*/, "") } : answer;
  });
}

async function patiently(work, signal) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (error.status !== 429) throw error;
      byId("progress-text").textContent = `The server is busy; going on in ${error.wait} s …`;
      await pause(1000 * error.wait, signal);
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

function progress(done, all, started) {
  const seconds = (performance.now() - started) / 1000;
  byId("progress").value = done / all;
  const left = done ? `, about ${Math.ceil((seconds / done) * (all - done)).toLocaleString("en")} s left` : "";
  const told = done < all ? `${done.toLocaleString("en")} of ${all.toLocaleString("en")} rows${left}` : `${all.toLocaleString("en")} rows in ${seconds.toFixed(1)} s`;
  byId("progress-text").textContent = told;
}

function showTally() {
  const counts = new Map(labels.map((label) => [label, 0]));
  for (const { label } of results) if (label) counts.set(label, counts.get(label) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  byId("tally").replaceChildren(...sorted.map(([label, count]) => bar(label, count / results.length, count.toLocaleString("en"))));
}

const HEADS = [["number", "Row"], ["text", "Text"], ["label", "Class"], ["score", "Probability"]];

function showHead() {
  const cells = HEADS.map(([key, title]) => make("th", { scope: "col", "aria-sort": sorting(key) }, make("button", { type: "button", onclick: () => sortBy(key) }, title)));
  byId("rows").tHead.replaceChildren(make("tr", {}, ...cells));
}

const sorting = (key) => (key !== order.key ? "none" : order.down ? "descending" : "ascending");

function sortBy(key) {
  order = { key, down: key === order.key && !order.down };
  HEADS.forEach(([head], i) => byId("rows").tHead.rows[0].cells[i].setAttribute("aria-sort", sorting(head)));
  showRows();
}

function compare(a, b) {
  const [x, y] = [a[order.key] ?? "", b[order.key] ?? ""];
  const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
  return (order.down ? -sign : sign) || a.number - b.number;
}

function showRows() {
  const rows = [...results].sort(compare).slice(0, shown);
  byId("rows").tBodies[0].replaceChildren(...rows.map(({ number, text, label, score, fault }) => make("tr", {},
    make("td", { class: "number" }, number.toLocaleString("en")),
    make("td", { class: "words" }, text.length > 160 ? `${text.slice(0, 159)}…` : text),
    make("td", { class: fault ? "class fault" : "class" }, fault ?? label),
    make("td", { class: "number" }, fault ? "" : percent(score)))));
  byId("more").hidden = results.length <= shown;
  byId("more").textContent = `Show more (${(results.length - shown).toLocaleString("en")} left)`;
}

function download() {
  const head = [...table.columns, "label", "score", ...labels.map((label) => `p_${label}`)];
  const rows = results.map(({ number, label, score, scores = [] }) => {
    const shares = new Map(scores.map((entry) => [entry.label, entry.score]));
    return [...table.rows[number - 1], label ?? "", score ?? "", ...labels.map((each) => shares.get(each) ?? "")];
  });
  const address = URL.createObjectURL(new Blob([format([head, ...rows])], { type: "text/csv" }));
  make("a", { href: address, download: name.replace(/(\.\w+)?$/, "-classified.csv") }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
