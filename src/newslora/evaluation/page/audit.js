"use strict";
(() => {
  const STEP = 50; // rows shown at a time
  const find = (id) => document.getElementById(id);
  const form = find("controls"), rows = [...find("rows").tBodies[0].rows];
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let most = STEP;
  const matches = (row) =>
    words.get(row).includes(find("search").value.trim().toLowerCase()) &&
    ["label", "suggested"].every((name) => !find(name).value || find(name).value === row.dataset[name]);
  const refresh = () => {
    const chosen = rows.filter(matches), shown = new Set(chosen.slice(0, most));
    rows.forEach((row) => { row.hidden = !shown.has(row); });
    find("status").textContent = `${shown.size} of ${chosen.length} rows shown`;
    find("more").hidden = shown.size === chosen.length;
  };
  const restart = () => { most = STEP; refresh(); };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", restart);
  form.addEventListener("reset", () => setTimeout(restart));
  find("more").addEventListener("click", () => { most += STEP; refresh(); });
  refresh();
})();
