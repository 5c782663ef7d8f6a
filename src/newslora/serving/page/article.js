// One article: classes as bars, and the words that spoke for the one chosen.

import { call, Trouble } from "./api.js";
import { bar, byId, hideTrouble, make, onDrop, percent, showTrouble } from "./dom.js";

const text = byId("text");
let model = () => null;
let turn = 0; // answers to an earlier question are dropped

export function start(chosenModel, openTable) {
  model = chosenModel;
  byId("article-form").addEventListener("submit", (event) => { event.preventDefault(); classify(); });
  text.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) classify(); });
  byId("clear").addEventListener("click", () => { text.value = ""; reset(); text.focus(); });
  onDrop(byId("article-form"), async (file) => {
    if (/\.(csv|tsv)$/i.test(file.name)) return openTable(file);
    text.value = (await file.text()).slice(0, 50000);
    return classify();
  });
}

export function modelChanged() {
  if (!byId("answer").hidden && text.value.trim()) classify();
}

function reset() {
  turn += 1;
  hideTrouble();
  byId("answer").hidden = true;
  byId("answer-empty").hidden = false;
  byId("words-card").hidden = true;
}

async function classify() {
  const now = turn += 1;
  hideTrouble();
  if (!text.value.trim()) return showTrouble({ message: "There is no text yet. Please paste an article first." });
  byId("classify").setAttribute("aria-disabled", "true");
  try {
    const { results: [result] } = await call("v1/classify", { texts: text.value, adapter: model().name });
    if (result.error) throw new Trouble("There is no text in it. Please paste the article's words.");
    if (now === turn) show(result);
  } catch (error) {
    if (now === turn) showTrouble(error, classify);
  } finally {
    byId("classify").removeAttribute("aria-disabled");
  }
  return undefined;
}

function show({ label, score, scores }) {
  byId("answer-empty").hidden = true;
  byId("answer").hidden = false;
  byId("best").textContent = label;
  byId("best-note").textContent = `${percent(score)} sure, by ${model().name}`;
  const press = model().explains ? (name) => () => explain(name) : () => undefined;
  byId("bars").replaceChildren(...scores.map(({ label: name, score: share }) => bar(name, share, percent(share), press(name))));
  byId("words-card").hidden = !model().explains;
  if (model().explains) explain(label);
}

async function explain(label) {
  const now = turn;
  for (const button of byId("bars").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.querySelector(".name").textContent === label));
  }
  byId("words-title").textContent = `What spoke for ${label}`;
  byId("words").classList.add("waiting");
  byId("words-note").textContent = "Weighing the words …";
  if (!byId("words").textContent) byId("words").textContent = text.value;
  try {
    const found = await call("v1/explain", { text: text.value, adapter: model().name, label });
    if (now === turn && byId("words-title").textContent.endsWith(label)) showWords(found);
  } catch (error) {
    if (now === turn) byId("words-note").textContent = error.message;
  } finally {
    byId("words").classList.remove("waiting");
  }
}

function showWords({ text: read, words, label }) {
  const greatest = Math.max(...words.map(({ weight }) => Math.abs(weight)), 1e-9);
  const parts = [];
  let place = 0;
  const characters = [...read]; // positions count characters, not UTF-16 units
  for (const { start, end, weight } of words) {
    parts.push(characters.slice(place, start).join(""), marked(characters.slice(start, end).join(""), weight, greatest));
    place = end;
  }
  const rest = characters.slice(place).join("");
  if (rest.trim()) parts.push(make("span", { class: "unread" }, rest));
  byId("words").replaceChildren(...parts);
  byId("words-note").textContent = note(words, label, rest.trim());
}

function marked(word, weight, greatest) {
  const share = Math.abs(weight) / greatest;
  if (share < 0.12) return word;
  const side = weight > 0 ? "for" : "against";
  const element = make("span", { class: side, title: `${weight > 0 ? "+" : "−"}${Math.abs(weight).toFixed(2)}` }, word);
  element.style.setProperty("--weight", String(share));
  return element;
}

function note(words, label, cut) {
  const best = [...words].sort((a, b) => b.weight - a.weight).filter(({ weight }) => weight > 0).slice(0, 3).map((word) => `“${word.text}”`);
  const strongest = best.length ? `Strongest for ${label}: ${best.join(", ")}.` : `No word spoke for ${label}.`;
  return cut ? `${strongest} The greyed end is longer than the model reads.` : strongest;
}
