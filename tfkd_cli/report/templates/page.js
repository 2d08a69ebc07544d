"use strict";
// Sorting, the panel with the runs behind a number, the list of runs, the curves. Text goes in as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs;
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
  const shortCommit = (commit) => commit.split("; ").map((each) => (/^[0-9a-f]{40}/.test(each) ? each.slice(0, 10) + each.slice(40) : each || "–")).join(", then ");
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

  const DASHES = ["", "7 3", "7 3 2 3", "2 2.5", "11 3 3 3", "4 4", "7 3 2 3 2 3"]; // one for each colour

  const points = (run, name) => data.epochs[run.epochs].map((epoch, at) => [epoch, run[name][at]]).filter((pair) => pair[1] !== null);

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
    const width = Math.max(280, Math.min(720, document.documentElement.clientWidth - 48)); // a unit is a pixel
    const [height, left, right, top, bottom] = [Math.max(240, width / 2.25), 44, 12, 10, 34];
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
    const epochs = scale(1, maxX)[0].filter((each) => each >= 2 && each <= maxX && Number.isInteger(each));
    for (const tick of [1, ...epochs]) svg.append(make("text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle" }, String(tick)));
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
    const curves = places.map((at) => runs[at]).filter((run) => run.status === "done").map((run) => points(run, name));
    return curves.length ? average(curves) : [];
  }

  // ---- the classes of a run

  const TABLE_CLASSES = 20; // with more classes the matrix is a picture

  function confusion(run) {
    if (run.classes === null) return [];
    const file = make("p", { class: "links" }, make("a", { href: `report/confusion/${run.name}.csv` }, "confusion matrix as CSV"));
    const head = make("h3", {}, "Test images by class, at the best epoch");
    if (!run.confusion.length) return [head, file];
    const counts = run.confusion.map((row) => new Map(row.split(" ").filter(Boolean).map((pair) => pair.split(":").map(Number))));
    const names = data.classNames[run.classes] || counts.map((_, at) => String(at));
    return [head, matrix(counts, names), classTable(counts, names), file];
  }

  function matrix(counts, names) {
    const note = make("p", { class: "faint" }, "Rows are true classes, columns predictions.");
    if (names.length > TABLE_CLASSES) return make("div", {}, note, heatmap(counts, names));
    const rows = counts.map((row, at) => {
      const images = [...row.values()].reduce((a, b) => a + b, 0) || 1;
      const cells = names.map((_, to) => make("td", { style: `background:color-mix(in srgb, var(--c${to === at ? 2 : 1}) ${Math.round((70 * (row.get(to) || 0)) / images)}%, transparent)` }, String(row.get(to) || 0)));
      return make("tr", {}, make("th", { scope: "row" }, names[at]), ...cells);
    });
    const heads = ["true \\ predicted", ...names].map((name) => make("th", { scope: "col" }, name));
    return make("div", {}, note, make("div", { class: "scroll matrix", tabindex: "0" }, make("table", { class: "fixed" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))));
  }

  function heatmap(counts, names) {
    const size = names.length;
    const canvas = make("canvas", { width: size, height: size, class: "heatmap", role: "img", "aria-label": "Confusion matrix" });
    const under = make("p", { class: "faint" }, "Point at a place for its classes.");
    const context = canvas.getContext("2d");
    counts.forEach((row, at) => {
      const images = [...row.values()].reduce((a, b) => a + b, 0) || 1;
      for (const [to, count] of row) {
        context.fillStyle = `rgba(${to === at ? "0,158,115" : "213,94,0"},${Math.sqrt(count / images).toFixed(3)})`;
        context.fillRect(to, at, 1, 1);
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      const [to, at] = [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight].map((each) => Math.min(size - 1, Math.max(0, Math.floor(each * size))));
      under.textContent = `${names[at]} taken for ${names[to]}: ${counts[at].get(to) || 0} images`;
    });
    return make("div", {}, canvas, under);
  }

  function classTable(counts, names) {
    const rows = counts.map((row, at) => {
      const images = [...row.values()].reduce((a, b) => a + b, 0);
      const [to, most] = [...row].filter(([each]) => each !== at).sort((a, b) => b[1] - a[1])[0] || [null, 0];
      const accuracy = images ? (100 * (row.get(at) || 0)) / images : null;
      const often = to === null ? "–" : `${names[to]} (${most})`;
      return make("tr", {}, make("th", { scope: "row" }, names[at]), make("td", { "data-value": images }, String(images)), make("td", { "data-value": accuracy ?? "" }, percent(accuracy)), make("td", { "data-value": most }, often));
    });
    const heads = ["class", "images", "accuracy %", "most often taken for"].map((text) => make("th", { scope: "col" }, text));
    return make("div", { class: "scroll", tabindex: "0" }, make("table", { class: "plain" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)));
  }

  // ---- the panel

  const panel = document.getElementById("panel");
  const panelTitle = document.getElementById("panel-title");
  const panelBody = document.getElementById("panel-body");

  function show(title, ...body) {
    panelTitle.textContent = title;
    panelBody.replaceChildren(...body.filter(Boolean));
    panelBody.querySelectorAll("table:not(.fixed)").forEach(makeSortable);
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
      ["loss", text(spec.loss)], ["recipe", text(spec.recipe)], ["scale", spec.scale],
    ]);
  }

  function showCell(name) {
    const cell = data.cells[name];
    if (!cell) return;
    const first = cell.runs.length ? data.specs[runs[cell.runs[0]].spec] : null;
    const baseline = cell.baseline.length ? [make("h3", {}, name.startsWith("claim/") ? "Held against" : "Its baseline"), runTable(cell.baseline)] : [];
    const lines = [{ label: first ? first.label : "", points: mean(cell.runs, "test") }];
    if (cell.baseline.length) lines.push({ label: name.startsWith("claim/") ? data.specs[runs[cell.baseline[0]].spec].label : "its baseline", points: mean(cell.baseline, "test") });
    show(cell.title,
      pairs([["published", cell.published], ["erratum or note", cell.note], ["assumed †", cell.assumed], ["warnings", cell.warnings]]),
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
      run.test.length > 0 && make("h3", {}, "Accuracy by epoch"),
      run.test.length > 0 && chart([{ label: "test", points: points(run, "test") }, { label: "training (augmented)", points: points(run, "train") }], "Accuracy by epoch"),
      ...confusion(run),
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
    document.getElementById("picture-files").replaceChildren(...data.pictureFormats.map((form) => make("a", { href: `report/curves/${picture.name}.${form}` }, form)));
  }
  if (select) {
    select.append(...data.pictures.map((picture) => make("option", {}, picture.title)));
    select.addEventListener("change", drawPicture);
    addEventListener("resize", drawPicture);
    drawPicture();
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  listRuns();
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  follow();
})();
