"use strict";
// Without scripts, or in a browser that cannot unpack, the page shows its best trials all the same.
(async () => {
  const ROWS = 100;
  const packed = Uint8Array.from(atob(document.getElementById("data").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const { headings, columns } = JSON.parse(await new Response(stream).text());
  const numeric = columns.map((column) => column.every((cell) => cell === null || typeof cell === "number" || /^-?(inf|nan)$/.test(cell)));
  const number = (cell) => (typeof cell === "number" ? cell : { inf: Infinity, "-inf": -Infinity }[cell]);
  const shown = (cell) => (cell === null ? "" : typeof cell === "number" && !Number.isInteger(cell) ? String(Number(cell.toPrecision(6))) : String(cell));
  const all = columns[0].map((_, row) => row); // they come best first
  const texts = all.map((row) => columns.map((column) => shown(column[row])).join(" ").toLowerCase());
  let rows = all;
  let first = 0;
  let sorted = null;

  const at = (id) => document.getElementById(id);
  const head = at("table").tHead.rows[0];
  const body = at("table").tBodies[0];
  // More than the best trials have, where others have other parameters.
  const heads = headings.map((heading, index) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading;
    cell.append(button);
    cell.classList.toggle("text", !numeric[index]);
    button.addEventListener("click", () => {
      const up = !(sorted && sorted.index === index && sorted.up);
      sorted = { index, up };
      draw(true);
    });
    return cell;
  });
  head.replaceChildren(...heads);

  const compare = (index, up) => (one, other) => {
    let a = columns[index][one];
    let b = columns[index][other];
    if (numeric[index]) [a, b] = [number(a), number(b)];
    // What has no value comes last, whichever way the rest is sorted.
    const [noA, noB] = [a === null || a === undefined, b === null || b === undefined];
    if (noA || noB) return noA - noB;
    if (a === b) return one - other;
    const order = numeric[index] ? (a < b ? -1 : 1) : String(a).localeCompare(String(b), "en", { numeric: true });
    return up ? order : -order;
  };

  function draw(again) {
    if (again) {
      const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      rows = all.filter((row) => words.every((word) => texts[row].includes(word)));
      if (sorted) rows.sort(compare(sorted.index, sorted.up));
      first = 0;
      heads.forEach((cell, index) => {
        if (sorted && sorted.index === index) cell.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
        else cell.removeAttribute("aria-sort");
      });
    }
    const page = rows.slice(first, first + ROWS);
    body.replaceChildren(
      ...page.map((row) => {
        const line = document.createElement("tr");
        columns.forEach((column, index) => {
          const cell = document.createElement("td");
          cell.textContent = shown(column[row]);
          if (!numeric[index]) cell.className = "text";
          if (typeof column[row] === "number") cell.title = String(column[row]);
          line.append(cell);
        });
        return line;
      }),
    );
    const of = rows.length === all.length ? "" : ` of ${all.length}`;
    at("found").textContent = `${rows.length}${of} trial${rows.length === 1 && !of ? "" : "s"}`;
    const pages = Math.max(1, Math.ceil(rows.length / ROWS));
    at("page").textContent = pages > 1 ? `Page ${Math.floor(first / ROWS) + 1} of ${pages}` : "";
    at("before").hidden = at("after").hidden = pages === 1;
    at("before").disabled = first === 0;
    at("after").disabled = first + ROWS >= rows.length;
  }
  at("search").addEventListener("input", () => draw(true));
  at("before").addEventListener("click", () => { first -= ROWS; draw(false); });
  at("after").addEventListener("click", () => { first += ROWS; draw(false); });
  draw(true);
})();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
