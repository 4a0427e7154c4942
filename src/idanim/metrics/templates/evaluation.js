const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 40;
const byId = id => document.getElementById(id);
const unique = values => [...new Set(values)];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
function options(select, values, all) {
  const list = values.map(value => element("option", {value, textContent: value === "" ? "(nobody)" : value}));
  if (all) list.unshift(element("option", {value: "\0all", textContent: all}));
  select.replaceChildren(...list);
  select.hidden = values.length < 2;
}
const format = value => value === null || value === undefined ? "–" : String(Number(value.toPrecision(3)));

// ------------------------------------------------------------------------------------------- groups
function showGroups() {
  const metric = byId("group-metric").value;
  const systems = Object.keys(data.groups);
  const names = unique(systems.flatMap(system => Object.keys(data.groups[system])));
  const cell = figure => !figure || figure.mean === null ? "–" :
    format(figure.mean) + (figure.low === null ? "" : ` [${format(figure.low)}, ${format(figure.high)}]`);
  const head = element("tr", {}, ...["system", ...names].map(name => element("th", {textContent: name})));
  const rows = systems.map(system => element("tr", {}, element("td", {textContent: system}),
    ...names.map(name => element("td", {textContent: cell((data.groups[system][name] || {})[metric])}))));
  byId("groups").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}
options(byId("group-metric"), data.group_metrics);
byId("group-metric").addEventListener("change", showGroups);
showGroups();

// ------------------------------------------------------------------------------------------- videos
function video(row) {
  if (!row.src) return element("span", {className: "small", textContent: "no video"});
  return element("video", {src: row.src, controls: true, loop: true, muted: true, playsInline: true, preload: "metadata"});
}
function reference(person) {
  const src = data.references[person];
  return src ? element("img", {src, className: "reference", alt: person}) : element("span", {className: "small", textContent: "–"});
}
const COLUMNS = [
  {name: "person", value: row => row.person || null, show: row => [reference(row.person), element("div", {className: "small", textContent: row.person || "(nobody)"})]},
  {name: "prompt", value: row => row.prompt, show: row => [
    element("div", {className: "prompt", textContent: row.prompt}),
    element("div", {className: "small", textContent: [row.group, row.people_group, `seed ${row.seed}`].filter(Boolean).join(" · ")}),
    ...row.remarks.map(text => element("span", {className: "remark", textContent: text}))]},
  {name: "system", value: row => row.system, show: row => [row.system]},
  {name: "video", value: row => row.video, show: row => [video(row), element("div", {className: "small", textContent: row.video})]},
  ...data.metrics.map(name => ({name, value: row => row.scores[name] ?? null, show: row => [format(row.scores[name])]})),
];
const FILTERS = {"filter-system": "system", "filter-person": "person", "filter-people_group": "people_group", "filter-group": "group"};
let order = [...data.rows];  // failures first, as written
let shown = PAGE;

function visible() {
  const words = byId("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  return order.filter(row =>
    words.every(word => `${row.prompt} ${row.person} ${row.video} ${row.remarks.join(" ")}`.toLowerCase().includes(word)) &&
    Object.entries(FILTERS).every(([id, key]) => byId(id).value === "\0all" || byId(id).value === row[key]) &&
    (!byId("filter-failures").checked || row.remarks.length > 0));
}
function showVideos() {
  const rows = visible();
  byId("videos").tBodies[0].replaceChildren(...rows.slice(0, shown).map(row => {
    const line = element("tr", {}, ...COLUMNS.map(column => element("td", {}, ...column.show(row))));
    line.dataset.video = row.video;
    return line;
  }));
  byId("count").textContent = `${rows.length} of ${data.rows.length} videos`;
  byId("more").hidden = rows.length <= shown;
}
function refilter() { shown = PAGE; showVideos(); }

for (const column of COLUMNS) {
  const header = element("th", {textContent: column.name, title: data.meaning[column.name] || "sort"});
  header.style.cursor = "pointer";
  header.addEventListener("click", () => {
    const direction = turn(header);
    order.sort((a, b) => compare(column.value(a), column.value(b), direction));
    refilter();
  });
  byId("videos").tHead.rows[0].append(header);
}
for (const [id, key] of Object.entries(FILTERS)) {
  options(byId(id), unique(data.rows.map(row => row[key])), `every ${key.replace("_", " ")}`);
  byId(id).addEventListener("change", refilter);
}
byId("filter-text").addEventListener("input", refilter);
byId("filter-failures").addEventListener("change", refilter);
byId("failures-first").addEventListener("click", () => {
  order = [...data.rows];
  for (const header of byId("videos").tHead.rows[0].cells) header.removeAttribute("aria-sort");
  refilter();
});
byId("more").addEventListener("click", () => { shown += PAGE; showVideos(); });
byId("play-all").addEventListener("click", () => {
  const videos = [...document.querySelectorAll("#videos video")];
  const stop = videos.some(item => !item.paused);
  for (const item of videos) stop ? item.pause() : item.play();
});
showVideos();

// -------------------------------------------------------------------------------------------- grids
function gridCell(row) {
  if (!row) return element("td", {});
  const score = row.scores[data.metrics[0]];
  const cell = element("td", {className: "cell", title: row.video});
  const still = row.strip ? element("img", {src: row.strip, alt: row.prompt}) : element("span", {className: "small", textContent: row.remarks[0] || "no picture"});
  const caption = element("div", {className: "small", textContent: `${format(score)} ${row.remarks.join(", ")}`});
  cell.append(still, caption);
  cell.addEventListener("click", () => {
    const playing = cell.querySelector("video");
    if (playing) return playing.replaceWith(still);
    const clip = video(row);
    still.replaceWith(clip);
    if (clip.play) clip.play();
  });
  return cell;
}
function showGrid() {
  const peopleDown = byId("grid-rows").value === "people";
  const [down, fixed] = peopleDown ? ["person", "system"] : ["system", "person"];
  const of = byId("grid-of").value, group = byId("grid-group").value;
  const rows = data.rows.filter(row => (row[fixed] === of || (!peopleDown && row.person === "")) && (group === "\0all" || row.group === group));
  const prompts = unique(rows.map(row => row.prompt)).sort((a, b) => data.prompts.indexOf(a) - data.prompts.indexOf(b)).slice(0, 12);
  const names = unique(rows.map(row => row[down])).sort((a, b) => data[down].indexOf(a) - data[down].indexOf(b)).slice(0, 60);
  const first = new Map();  // of several seeds the lowest
  for (const row of [...rows].sort((a, b) => a.seed - b.seed)) {
    const key = JSON.stringify([row[down], row.prompt]);
    if (!first.has(key)) first.set(key, row);
  }
  byId("grid").tHead.replaceChildren(element("tr", {}, element("th", {}, ...(peopleDown ? [] : [reference(of)])),
    ...prompts.map(prompt => element("th", {textContent: prompt}))));
  byId("grid").tBodies[0].replaceChildren(...names.map(name => element("tr", {},
    element("th", {}, ...(peopleDown ? [reference(name)] : []), element("div", {textContent: name || "(nobody)"})),
    ...prompts.map(prompt => gridCell(first.get(JSON.stringify([name, prompt])))))));
}
function startGrid() {
  const list = byId("grid-rows").value === "people" ? data.system : data.person.filter(Boolean);
  options(byId("grid-of"), list);
  showGrid();
}
options(byId("grid-group"), unique(data.rows.map(row => row.group)), "every group");
byId("grid-rows").addEventListener("change", startGrid);
byId("grid-of").addEventListener("change", showGrid);
byId("grid-group").addEventListener("change", showGrid);
startGrid();
