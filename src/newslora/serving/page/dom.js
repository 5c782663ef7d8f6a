// Small helpers around the document.

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function percent(share) {
  if (share > 0.9995) return "> 99.9 %";
  return share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

export function bar(name, share, told, press) {
  const fill = make("span", { class: "fill" });
  requestAnimationFrame(() => requestAnimationFrame(() => { fill.style.width = `${100 * share}%`; }));
  const parts = [make("span", { class: "name" }, name), make("span", { class: "share" }, told), make("span", { class: "track", "aria-hidden": "true" }, fill)];
  const inner = press ? make("button", { type: "button", "aria-pressed": "false", onclick: press }, ...parts) : make("div", { class: "bar" }, ...parts);
  return make("li", {}, inner);
}

export function onDrop(zone, take) {
  const over = (event) => { event.preventDefault(); zone.classList.add("over"); };
  const out = () => zone.classList.remove("over");
  zone.addEventListener("dragover", over);
  zone.addEventListener("dragleave", out);
  zone.addEventListener("drop", (event) => {
    out();
    const [file] = event.dataTransfer.files;
    if (file) { event.preventDefault(); take(file); }
  });
}

let retry = () => {};

export function showTrouble(error, again) {
  retry = again;
  byId("alert-text").textContent = error.message;
  byId("alert-again").hidden = !(error.again && again);
  byId("alert").hidden = false;
}

export function hideTrouble() {
  byId("alert").hidden = true;
}

byId("alert-close").addEventListener("click", hideTrouble);
byId("alert-again").addEventListener("click", () => { hideTrouble(); retry(); });
