// Tables as text (RFC 4180): reading them, finding the text columns, writing results.

export function parse(source, separator) {
  const rows = [];
  let row = [], cell = "", quoted = false;
  for (let i = 0; i < source.length; i += 1) {
    const sign = source[i];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (source[i + 1] === '"') { cell += '"'; i += 1; }
      else quoted = false;
    } else if (sign === '"' && cell === "") quoted = true;
    else if (sign === separator) { row.push(cell); cell = ""; }
    else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && source[i + 1] === "\n") i += 1;
      row.push(cell); rows.push(row); row = []; cell = "";
    } else cell += sign;
  }
  if (cell !== "" || row.length) { row.push(cell); rows.push(row); }
  return rows.filter((cells) => cells.some((content) => content.trim() !== ""));
}

export function readTable(name, source) {
  const text = source.replace(/^\uFEFF/, "");
  if (/\.txt$/i.test(name)) return lines(text);
  const first = text.slice(0, text.search(/[\r\n]|$/));
  const separator = /\.tsv$/i.test(name) ? "\t" : [",", ";", "\t"].reduce((best, sign) => (count(first, sign) > count(first, best) ? sign : best));
  const [header = [], ...rows] = parse(text, separator);
  return { columns: header.map((title, i) => title.trim() || `column ${i + 1}`), rows: rows.map((row) => header.map((_, i) => row[i] ?? "")) };
}

function lines(text) {
  return { columns: ["text"], rows: text.split(/\r\n|\n|\r/).filter((line) => line.trim()).map((line) => [line]) };
}

const count = (text, sign) => text.split(sign).length - 1;
const TEXTS = ["title", "headline", "text", "article", "content", "body", "description", "summary"];

export function textColumns({ columns, rows }) {
  const known = columns.map((name, i) => [name.toLowerCase(), i]).filter(([name]) => TEXTS.includes(name)).map(([, i]) => i);
  if (known.length) return known;
  const sample = rows.slice(0, 200);
  const mean = (i) => sample.reduce((sum, row) => sum + row[i].length, 0);
  return columns.length ? [columns.map((_, i) => i).reduce((best, i) => (mean(i) > mean(best) ? i : best))] : [];
}

// A spreadsheet would run a cell that starts like a formula; an apostrophe keeps it text.
const safe = (cell) => (/^[=+\-@\t\r]/.test(cell) && Number.isNaN(Number(cell)) ? `'${cell}` : cell);
const quote = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

export function format(rows) {
  return rows.map((row) => row.map((cell) => quote(safe(String(cell)))).join(",") + "\r\n").join("");
}
