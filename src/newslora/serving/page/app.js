// The page: which model, which tab, and the token if the server asks for one.

import { call, keepToken, onToken } from "./api.js";
import * as article from "./article.js";
import { byId, make, showTrouble } from "./dom.js";
import * as table from "./table.js";

let models = [];
const chosen = () => models.find(({ name }) => name === byId("adapter").value) ?? models[0];

async function loadModels() {
  try {
    const listed = await call("v1/models");
    models = listed.models;
    byId("adapter").replaceChildren(...models.map(({ name, labels }) => make("option", { value: name, title: labels.join(", ") }, name)));
    byId("adapter").value = listed.default;
    byId("adapter").disabled = models.length < 2;
  } catch (error) {
    showTrouble(error, loadModels);
  }
}

async function refreshModels() {
  const before = byId("adapter").value;
  await loadModels();
  if (models.some(({ name }) => name === before)) byId("adapter").value = before;
}

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const each of tabs) {
    const on = each === tab;
    each.setAttribute("aria-selected", String(on));
    each.tabIndex = on ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !on;
  }
}

function startTabs() {
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      select(next);
      next.focus();
    });
  }
}

let asking = null; // one question at a time, however many requests wait for it

function askToken() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("token-dialog");
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const token = byId("token").value.trim();
      byId("token").value = "";
      asking = null;
      if (token) keepToken(token);
      resolve(dialog.returnValue === "ok" && token !== "");
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

onToken(askToken);
startTabs();
article.start(chosen, (file) => { select(byId("tab-table")); table.open(file); });
table.start(chosen);
byId("adapter").addEventListener("change", article.modelChanged);
byId("adapter").addEventListener("pointerdown", refreshModels, { once: true });
loadModels();
