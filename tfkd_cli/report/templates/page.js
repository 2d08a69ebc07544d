"use strict";
// Sorting, the panel with the runs behind a number, the list of runs, the curves. Text goes in as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs.map((row) => Object.fromEntries(data.fields.map((name, at) => [name, row[at]])));
  const byName = new Map(runs.map((run, at) => [run.name, at]));
  const FEW = 50; // rows shown before "Show all"

  // ---- elements

  function make(tag, attributes, ...children) {
    const svg = ["svg", "path", "line", "text", "polygon", "circle"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  }

  function pairs(entries) {
    const list = make("dl", { class: "pairs" });
    for (const [name, value] of entries) {
      if (value === "" || value === null || value === undefined) continue;
      list.append(make("dt", {}, name), make("dd", {}, value instanceof Node ? value : String(value)));
    }
    return list;
  }

  const link = (text, hash) => make("a", { href: "#" + hash }, text);
  const runLink = (run, text) => link(text || run.name, "run=" + run.name);
  const percent = (value) => (value === null ? "–" : value.toFixed(2));
  const time = (hours) => (!hours ? "–" : hours < 0.025 ? Math.round(hours * 3600) + " s" : hours < 1.5 ? Math.round(hours * 60) + " min" : hours.toFixed(1) + " h");
  const shortCommit = (commit) => (/^[0-9a-f]{40}/.test(commit) ? commit.slice(0, 10) + commit.slice(40) : commit || "–");
  const status = (run) => make("span", { class: "status-" + run.status }, run.status);

  // ---- sorting

  function makeSortable(table) {
    for (const head of table.tHead.rows[0].cells) {
      const button = make("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, head));
    }
  }

  function sort(table, head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const each of head.parentNode.cells) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    if (table.sorter) return table.sorter(head.cellIndex, up);
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row.cells[head.cellIndex]), row]);
    rows.sort((a, b) => compare(a[0], b[0], up));
    body.append(...rows.map((pair) => pair[1]));
  }

  function key(cell) {
    if (cell === undefined) return "";
    if ("value" in cell.dataset) return cell.dataset.value === "" ? "" : Number(cell.dataset.value);
    return cell.textContent.trim();
  }

  function compare(a, b, up) {
    if (a === "" || b === "") return (a === "") - (b === ""); // empty cells stay last
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return up ? order : -order;
  }

  // ---- curves

  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const DASHES = ["", "7 3", "7 3 2 3", "2 2.5", "11 3 3 3"];

  function unpack(text, epochs) {
    const points = [];
    const count = text.length / 2;
    for (let at = 0; at < count; at++) {
      const high = LETTERS.indexOf(text[2 * at]);
      if (high < 0) continue;
      points.push([epochs - (count - 1 - at) * data.step, ((64 * high + LETTERS.indexOf(text[2 * at + 1])) / 4095) * 100]);
    }
    return points;
  }

  function average(curves) {
    const sums = new Map();
    for (const curve of curves) for (const [x, y] of curve) sums.set(x, [...(sums.get(x) || []), y]);
    const shared = [...sums].filter(([, values]) => values.length === curves.length).sort((a, b) => a[0] - b[0]);
    return shared.map(([x, values]) => {
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
      return [x, mean, values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0];
    });
  }

  function chart(lines, title) {
    const box = make("div", { class: "chart" });
    const drawn = lines.filter((line) => line.points.length);
    if (!drawn.length) return box;
    const [width, height, left, right, top, bottom] = [720, 320, 44, 12, 10, 34];
    const all = drawn.flatMap((line) => line.points);
    const maxX = Math.max(...all.map((p) => p[0]), 2);
    const lowY = Math.min(...all.map((p) => p[1]));
    const highY = Math.max(...all.map((p) => p[1]));
    const [ticks, low, high] = scale(lowY, highY);
    const x = (value) => left + ((value - 1) / (maxX - 1)) * (width - left - right);
    const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    for (const tick of ticks) {
      svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    for (const tick of scale(1, maxX)[0].filter((each) => each >= 1 && each <= maxX && Number.isInteger(each))) svg.append(make("text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle" }, String(tick)));
    svg.append(make("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "epoch"));
    svg.append(make("text", { x: 2, y: height - 4 }, "accuracy %"));
    const legend = make("ul");
    drawn.forEach((line, at) => {
      const look = `stroke:var(--c${at % 7});fill:none;stroke-width:1.8`;
      const dashes = DASHES[at % DASHES.length];
      if (line.points.some((p) => p[2])) {
        const edge = [...line.points.map((p) => [p[0], p[1] + p[2]]), ...line.points.map((p) => [p[0], p[1] - p[2]]).reverse()];
        svg.append(make("polygon", { points: edge.map((p) => `${x(p[0]).toFixed(1)},${y(Math.max(low, Math.min(high, p[1]))).toFixed(1)}`).join(" "), style: `fill:var(--c${at % 7});opacity:.15` }));
      }
      if (line.points.length === 1) svg.append(make("circle", { cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 4, style: `fill:var(--c${at % 7})` }));
      svg.append(make("path", { d: "M" + line.points.map((p) => `${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("L"), style: look, "stroke-dasharray": dashes }));
      const sample = make("svg", { viewBox: "0 0 32 10", "aria-hidden": "true" }, make("line", { x1: 0, x2: 32, y1: 5, y2: 5, style: look, "stroke-dasharray": dashes }));
      legend.append(make("li", {}, sample, line.label));
    });
    box.append(svg, legend);
    return box;
  }

  function scale(low, high) {
    const span = Math.max(high - low, 0.5);
    const rough = span / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const ticks = [];
    for (let at = Math.floor(low / step); at <= Math.ceil(high / step); at++) ticks.push(Number((at * step).toFixed(6)));
    return [ticks, ticks[0], ticks[ticks.length - 1]];
  }

  function mean(places, name) {
    const curves = places.map((at) => runs[at]).filter((run) => run[name]).map((run) => unpack(run[name], run.epochs));
    return curves.length ? average(curves) : [];
  }

  // ---- the panel

  const panel = document.getElementById("panel");
  const panelTitle = document.getElementById("panel-title");
  const panelBody = document.getElementById("panel-body");

  function show(title, ...body) {
    panelTitle.textContent = title;
    panelBody.replaceChildren(...body.filter(Boolean));
    panelBody.querySelectorAll("table").forEach(makeSortable);
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
    panelTitle.focus({ preventScroll: true });
  }

  function runTable(places) {
    const heads = ["seed", "status", "best %", "epoch", "last %", "time", "commit", "run"];
    const body = make("tbody");
    for (const run of places.map((at) => runs[at])) {
      const numbers = [run.best, run.bestEpoch, run.last, run.hours];
      const texts = [percent(run.best), run.bestEpoch ?? "–", percent(run.last), time(run.hours)];
      body.append(
        make("tr", {},
          make("td", { "data-value": run.seed }, runLink(run, String(run.seed))),
          make("td", {}, status(run)),
          ...texts.map((text, at) => make("td", { "data-value": numbers[at] ?? "" }, String(text))),
          make("td", {}, make("code", {}, shortCommit(data.places[run.place].commit))),
          make("td", {}, runLink(run))));
    }
    const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
    return make("div", { class: "scroll" }, make("table", { class: "plain" }, head, body));
  }

  function specList(spec) {
    const teacher = !spec.teacher ? "" : make("span", {}, spec.teacherRun === null ? spec.teacher : runLink(runs[spec.teacherRun], spec.teacher), ` (${/^\d+$/.test(spec.checkpoint) ? "epoch " : ""}${spec.checkpoint})`);
    const text = (values) => Object.entries(values).map(([name, value]) => `${name} ${Array.isArray(value) ? value.join("/") : value}`).join(", ");
    return pairs([
      ["data set", spec.dataset], ["student", spec.student], ["method", `${spec.method} (${spec.form} form)`], ["teacher", teacher],
      ["loss", text(spec.loss)], ["recipe", text(spec.recipe)], ["scale", spec.scale + (spec.fast ? ", fast" : "")],
    ]);
  }

  function showCell(name) {
    const cell = data.cells[name];
    if (!cell) return;
    const first = cell.runs.length ? data.specs[runs[cell.runs[0]].spec] : null;
    const baseline = cell.baseline.length ? [make("h3", {}, name.startsWith("claim/") ? "Held against" : "Its baseline"), runTable(cell.baseline)] : [];
    const lines = [{ label: first ? first.label : "", points: mean(cell.runs, "test") }];
    if (cell.baseline.length) lines.push({ label: data.specs[runs[cell.baseline[0]].spec].label + (name.startsWith("claim/") ? "" : " (its baseline)"), points: mean(cell.baseline, "test") });
    show(cell.title,
      pairs([["published", cell.published], ["erratum or note", cell.note], ["assumed †", cell.assumed.join("; ")], ["warnings !", cell.warnings.join("; ")]]),
      make("h3", {}, "Runs"), runTable(cell.runs),
      first && make("h3", {}, "What they are"), first && specList(first),
      ...baseline, chart(lines, "Test accuracy by epoch"));
  }

  function showRun(name) {
    const run = runs[byName.get(name)];
    if (!run) return;
    const spec = data.specs[run.spec];
    const place = data.places[run.place];
    const shown = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : value);
    const text = (values) => Object.entries(values).map(([key, value]) => `${key} ${shown(value)}`).join(", ");
    const items = make("span", {}, ...run.items.flatMap((slug, at) => [at ? ", " : null, link(data.items[slug], slug)]));
    show(run.name,
      pairs([
        ["status", status(run)], ["best", run.best === null ? "" : `${percent(run.best)} % at epoch ${run.bestEpoch}`], ["last", run.last === null ? "" : percent(run.last) + " %"], ["at the best epoch", text(run.scores)],
        ["seed", run.seed], ["commit", place.commit], ["hardware", place.hardware], ["numerics", text(place.numerics)], ["versions", text(place.versions)],
        ["time", time(run.hours) + (run.wasted ? `, of it wasted ${time(run.wasted)}` : "")], ["attempts", run.attempts], ["finished", run.finished], ["wanted by", items],
      ]),
      run.why && make("pre", { class: "why" }, run.why),
      make("h3", {}, "Recipe"), specList(spec),
      run.test && make("h3", {}, "Accuracy by epoch"),
      run.test && chart([{ label: "test", points: unpack(run.test, run.epochs) }, { label: "training (augmented)", points: unpack(run.train, run.epochs) }], "Accuracy by epoch"),
      run.logPath && make("h3", {}, "Log"), run.logPath && make("p", { class: "faint" }, "The end of ", make("code", {}, run.logPath)), run.log && make("pre", {}, run.log));
  }

  function follow() {
    const [kind, name] = decodeURIComponent(location.hash.slice(1)).split(/=(.*)/s);
    if (kind === "cell") showCell(name);
    else if (kind === "run") showRun(name);
    else if (panel.open) panel.close();
  }

  panel.addEventListener("close", () => {
    if (/^#(cell|run)=/.test(location.hash)) history.replaceState(null, "", location.pathname + location.search);
  });
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
  document.getElementById("close").addEventListener("click", () => panel.close());
  addEventListener("hashchange", follow);

  // ---- the list of runs

  const runTableNode = document.getElementById("run-table");
  const filter = document.getElementById("filter");
  const more = document.getElementById("more");
  const columns = [(r) => r.name, (r) => r.status, (r) => r.seed, (r) => r.best ?? "", (r) => r.bestEpoch ?? "", (r) => r.last ?? "", (r) => r.hours || "", (r) => data.places[r.place].hardware, (r) => data.places[r.place].commit];
  let order = runs.slice();
  let everything = false;

  function listRuns() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = order.filter((run) => words.every((word) => `${run.name} ${run.status} s${run.seed} ${data.specs[run.spec].label} ${data.places[run.place].commit} ${run.items.join(" ")}`.toLowerCase().includes(word)));
    const shown = everything ? found : found.slice(0, FEW);
    runTableNode.tBodies[0].replaceChildren(...shown.map(runRow));
    document.getElementById("shown").textContent = `${shown.length} of ${found.length} shown`;
    more.hidden = shown.length === found.length;
  }

  function runRow(run) {
    const place = data.places[run.place];
    const texts = [run.seed, percent(run.best), run.bestEpoch ?? "–", percent(run.last), time(run.hours), place.hardware];
    return make("tr", {}, make("th", { scope: "row" }, runLink(run)), make("td", {}, status(run)), ...texts.map((text) => make("td", {}, String(text))), make("td", {}, make("code", {}, shortCommit(place.commit))));
  }

  runTableNode.sorter = (column, up) => {
    order = runs.slice().sort((a, b) => compare(columns[column](a), columns[column](b), up));
    listRuns();
  };
  filter.addEventListener("input", listRuns);
  more.addEventListener("click", () => { everything = true; listRuns(); });

  // ---- the curves of a student

  const select = document.getElementById("picture");
  function drawPicture() {
    const picture = data.pictures[select.selectedIndex];
    const lines = Object.entries(picture.lines).map(([label, places]) => ({ label: places.length > 1 ? `${label} (n = ${places.length})` : label, points: mean(places, "test") }));
    document.getElementById("picture-chart").replaceChildren(chart(lines, picture.title));
    document.getElementById("picture-files").replaceChildren(...["png", "svg"].map((form) => make("a", { href: `report/curves/${picture.name}.${form}` }, form)));
  }
  if (select) {
    select.append(...data.pictures.map((picture) => make("option", {}, picture.title)));
    select.addEventListener("change", drawPicture);
    drawPicture();
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  listRuns();
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  follow();
})();
