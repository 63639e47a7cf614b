// SPDX-License-Identifier: Apache-2.0
// The page: photographs, the stage with its hints, the strip of colourings. The server draws (coltran/page/serve.py).

const $ = id => document.getElementById(id);
const make = (tag, set = {}) => Object.assign(document.createElement(tag), set);
const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
const STORE = "coltran";
const FRESH = {saturation: 1, warmth: 0, restore: false, border: false};

let photos = [];  // {key, name, width, height, bordered, colorings, chosen, hints, past, future, adjust, waiting}
let now = null;  // the one on the stage
let work = null;  // {photo, abort} of the drawing at work
let pending = [];  // photographs, and what to draw of them, one after the other
let tool = "hint", asked = null;  // the stroke for which the popover asks a colour
let about = {samples: 32, guide: true};

/* ---- the server ---- */

function problem(sentence) {
  $("problem").hidden = !sentence;
  $("problem").firstElementChild.textContent = sentence || "";
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name == "AbortError") throw error;
    throw new Error("The server does not answer: is it still running?");
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `The server says ${answer.status}.`);
  return answer;
}

const attempt = action => async (...given) => {
  try { return await action(...given); } catch (error) { if (error.name != "AbortError") problem(error.message); }
};
const at = photo => `/api/photos/${photo.key}`;
function query(photo) {
  const {saturation, warmth, restore, border} = photo.adjust;
  return new URLSearchParams({saturation, warmth, restore: +restore, border: +border}).toString();
}
const shown = (photo, one) => `${at(photo)}/${one.number}/shown.jpg?${query(photo)}`;
const coloring = (photo, number = photo.chosen) => photo.colorings.find(one => one.number == number);

function remember() {
  const kept = photos.map(({key, chosen, hints, adjust}) => ({key, chosen, hints, adjust}));
  try { localStorage.setItem(STORE, JSON.stringify({kept, now: now && now.key})); } catch { /* no room: it is only for a refresh */ }
}

/* ---- photographs ---- */

async function open(files) {
  problem("");
  for (const file of files) {
    try {
      await take(await (await ask(`/api/photos?name=${encodeURIComponent(file.name)}`, {method: "POST", body: file})).json());
    } catch (error) { problem(error.message); }
  }
}

function take(told, kept = {}) {
  const photo = {chosen: null, hints: [], past: [], future: [], adjust: {...FRESH}, ...kept, ...told};
  photos.push(photo);
  if (!now) show(photo);
  if (!photo.colorings.length) draw(photo, {seed: 0});
  else if (!coloring(photo)) photo.chosen = photo.colorings[0].number;
  refresh();
}

async function restore() {
  const {kept = [], now: last} = JSON.parse(localStorage.getItem(STORE) || "{}");
  const answers = await Promise.all(kept.map(one => fetch(`/api/photos/${one.key}`)));
  for (const [k, answer] of answers.entries()) if (answer.ok) take(await answer.json(), kept[k]);
  const found = photos.find(photo => photo.key == last);
  if (found) show(found);
}

function show(photo) {
  now = photo;
  close();
  map("");
  $("stage").style.setProperty("--aspect", photo.width / photo.height);
  $("gray").src = `${at(photo)}/gray.jpg`;
  split(0);
  for (const [name, value] of Object.entries(photo.adjust))
    $(name)[typeof value == "boolean" ? "checked" : "value"] = value;
  $("border").disabled = !photo.bordered;
  refresh();
}

function clear() {
  stop();
  for (const photo of photos) fetch(at(photo), {method: "DELETE"}).catch(() => {});
  photos = []; now = null; pending = [];
  close(); problem(""); refresh();
  $("drop").focus();
}

/* ---- drawing ---- */

function draw(photo, options) {
  pending.push({photo, options});
  next();
}

async function next() {
  if (work || !pending.length) { refresh(); return; }
  const {photo, options} = pending.shift();
  work = {photo, abort: new AbortController(), said: "Waiting for the server", done: null, tiles: []};
  const mine = work;
  refresh();
  try {
    const body = JSON.stringify({...settings(), hints: photo.hints, ...options});
    const answer = await ask(`${at(photo)}/draw`, {method: "POST", body, signal: mine.abort.signal});
    await each(answer.body, message => heard(mine, photo, message));
  } catch (error) {
    if (error.name != "AbortError") problem(error.message);
  }
  if (work == mine) work = null;
  next();
}

async function each(body, hear) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let left = "";;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (left + value).split("\n");
    left = lines.pop();
    lines.forEach(line => hear(JSON.parse(line)));
  }
}

function heard(mine, photo, message) {
  if (work != mine) return;
  if (message.waiting) mine.said = `Waiting: ${message.waiting} before you`;
  if (message.stage == "draw") [mine.said, mine.done] = ["Drawing colours", message.done / message.total];
  if (message.stage == "finish") [mine.said, mine.done] = [`Finishing ${message.done + 1} of ${message.total}`, message.done / message.total];
  if (message.preview) mine.tiles = message.preview;
  if (message.error) problem(message.error);
  if (message.coloring) {
    const told = message.coloring, old = coloring(photo, told.number);
    if (old) Object.assign(old, told);
    else photo.colorings.push(told);
    if (!old && !mine.begun) {  // the first of these is the best of them
      mine.begun = true;
      mine.tiles = [];
      if (photo.chosen != null) photo.past.push({hints: coloring(photo).hints, chosen: photo.chosen});
      photo.future = [];
      photo.chosen = told.number;
    }
  }
  refresh();
}

function halt() {
  if (work) work.abort.abort();
  work = null;
}

function stop() {
  if (!work) return;
  const {photo} = work;
  halt();
  if (coloring(photo)) photo.hints = coloring(photo).hints;
  pending = [];
  refresh();
  $("said").textContent = "Stopped";
}

function settings() {
  const read = id => $(id).value === "" ? null : Number($(id).value);
  return {samples: read("samples"), temperature: read("temperature"), top_p: read("top_p"), particles: read("particles")};
}

const seed = () => $("seed").value === "" ? null : Number($("seed").value);

function recolor(options = {}) {  // the chosen colouring, as its hints say now; a newer wish takes the place of an older one
  if (!coloring(now)) return;
  if (work && work.photo == now) halt();
  pending = pending.filter(one => one.photo != now);
  draw(now, {samples: 1, seed: seed(), base: now.chosen, ...options});
}

/* ---- what is on screen ---- */

let painted = "";
function refresh() {
  $("start").hidden = !!now;
  $("work").hidden = $("new").hidden = !now;
  remember();
  if (!now) return;
  const mine = work && work.photo == now ? work : null, one = coloring(now);
  const address = one && !$("maps").dataset.map ? shown(now, one) : null;
  if (address && address != painted) $("colored").src = painted = address;
  $("colored").hidden = $("compare").hidden = !one;
  $("colored").alt = one ? `${now.name}, colouring ${now.colorings.indexOf(one) + 1}` : "";
  const tiles = mine && !mine.begun ? mine.tiles : [];
  $("tiles").hidden = !tiles.length;
  $("tiles").className = tiles.length == 1 ? "one" : "";
  fill($("tiles"), tiles, () => make("img", {alt: "Colours as they are drawn"}), (image, source) => { image.src = source; });
  dots();
  strip();
  queue();
  $("progress").querySelector("progress").hidden = $("stop").hidden = !work;
  if (work) {
    const other = work.photo == now ? "" : `${work.photo.name}: `;
    $("said").textContent = other + work.said;
    if (work.done == null) $("progress").querySelector("progress").removeAttribute("value");
    else $("progress").querySelector("progress").value = work.done;
  } else if ($("said").textContent != "Stopped" || mine) $("said").textContent = "";
  $("there").disabled = $("again").disabled = !one;
  if (one) $("download").href = `${at(now)}/${one.number}/download?${query(now)}`;
  else $("download").removeAttribute("href");
  $("undo").disabled = !now.past.length;
  $("redo").disabled = !now.future.length;
  $("known").textContent = one ? `${one.bits.toFixed(2)} bits a pixel · seed ${one.seed} · sample ${one.sample}` : "";
  $("how").textContent = work ? "" : tool == "hint" ? "Click, or paint, where you know the colour" : "Drag a rectangle: it is coloured anew";
}

function fill(parent, values, create, set) {  // keeps the elements, and with them the focus
  while (parent.children.length > values.length) parent.lastElementChild.remove();
  values.forEach((value, k) => set(parent.children[k] || parent.appendChild(create()), value, k));
}

function strip() {
  fill($("strip"), now.colorings, () => {
    const button = make("button");
    button.append(make("img", {alt: ""}), make("i"));
    return button;
  }, (button, one, k) => {
    const source = shown(now, one);
    if (button.firstChild.getAttribute("src") != source) {  // as large before it has come as after
      Object.assign(button.firstChild, {src: source, width: now.width, height: now.height});
    }
    button.lastChild.textContent = k + 1;
    button.setAttribute("aria-label", `Colouring ${k + 1}${one.hints.length ? ", with hints" : ""}`);
    button.setAttribute("aria-pressed", one.number == now.chosen);
    button.onclick = () => choose(one);
  });
}

function choose(one) {
  if (one.number == now.chosen) return;
  now.past.push({hints: now.hints, chosen: now.chosen});
  now.future = [];
  now.chosen = one.number;
  now.hints = one.hints;
  map("");
  refresh();
}

function queue() {
  $("queue").hidden = photos.length < 2;
  fill($("queue").firstElementChild, photos, () => {
    const button = make("button");
    button.append(make("img", {alt: ""}), make("span"));
    return button;
  }, (button, photo) => {
    const one = coloring(photo), source = one ? shown(photo, one) : `${at(photo)}/gray.jpg`;
    if (button.firstChild.getAttribute("src") != source) button.firstChild.src = source;
    const state = work && work.photo == photo ? "at work" : pending.some(wish => wish.photo == photo) ? "waits" : "";
    button.lastChild.textContent = state;
    button.setAttribute("aria-label", `${photo.name}${state ? ", " + state : ""}`);
    button.setAttribute("aria-current", photo == now);
    button.onclick = () => show(photo);
  });
  $("zip").disabled = !photos.some(photo => coloring(photo));
}

function step(from, to) {  // undo and redo
  const last = now[from].pop();
  if (!last) return;
  now[to].push({hints: now.hints, chosen: now.chosen});
  [now.hints, now.chosen] = [last.hints, last.chosen];
  close();
  refresh();
}

/* ---- the stage ---- */

function split(percent) {
  $("stage").style.setProperty("--split", `${percent}%`);
  $("compare").setAttribute("aria-valuenow", Math.round(percent));
  $("compare").setAttribute("aria-valuetext", `${Math.round(percent)} % gray`);
}

function place(event) {
  const area = $("stage").getBoundingClientRect();
  const x = (event.clientX - area.left) / area.width, y = (event.clientY - area.top) / area.height;
  return [Math.floor(clamp(x, 0, .99999) * now.width), Math.floor(clamp(y, 0, .99999) * now.height)];
}

function follow(element, begin) {  // a press, and where it is dragged to
  element.addEventListener("pointerdown", event => {
    const drag = event.button == 0 && begin(event);
    if (!drag) return;
    event.preventDefault();
    element.focus();
    element.setPointerCapture(event.pointerId);
    const end = (action, last) => {
      element.onpointermove = element.onpointerup = element.onpointercancel = null;
      if (action) action(last);
    };
    element.onpointermove = drag.move;
    element.onpointerup = last => end(drag.end, last);
    element.onpointercancel = last => end(drag.cancel, last);
  });
}

function dots() {
  const strokes = asked ? [...now.hints, asked] : now.hints;
  fill($("dots"), now.hints, () => {
    const dot = make("button");
    follow(dot, () => moving(dot));
    dot.addEventListener("keydown", event => dotKey(dot, event));
    dot.addEventListener("click", event => { if (!event.detail) edit(dot.stroke); });  // by keyboard
    return dot;
  }, (dot, stroke, k) => {
    const [x, y] = stroke.points[0];
    dot.stroke = stroke;
    dot.style.left = `${(x + .5) / now.width * 100}%`;
    dot.style.top = `${(y + .5) / now.height * 100}%`;
    dot.style.background = stroke.color;
    dot.setAttribute("aria-label", `Hint ${k + 1}, ${stroke.color} at ${x}, ${y}: arrow keys move it, Delete removes it`);
  });
  $("marks").setAttribute("viewBox", `0 0 ${now.width} ${now.height}`);
  $("marks").replaceChildren(...strokes.map(stroke => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const points = stroke.points.length > 1 ? stroke.points : [stroke.points[0], stroke.points[0]];
    for (const [name, value] of Object.entries({
      points: points.map(point => point.join(",")).join(" "), fill: "none", stroke: stroke.color || "#fff", opacity: .55,
      "stroke-width": Math.max(2 * stroke.radius, now.width / 160), "stroke-linecap": "round", "stroke-linejoin": "round",
    })) path.setAttribute(name, value);
    return path;
  }));
}

function change(hints, options) {  // other hints, and colours for them
  now.hints = hints;
  recolor(options);
  refresh();
}

function moved(stroke, dx, dy) {
  const xs = stroke.points.map(point => point[0]), ys = stroke.points.map(point => point[1]);
  dx = clamp(dx, -Math.min(...xs), now.width - 1 - Math.max(...xs));
  dy = clamp(dy, -Math.min(...ys), now.height - 1 - Math.max(...ys));
  return {...stroke, points: stroke.points.map(([x, y]) => [x + dx, y + dy])};
}

function moving(dot) {
  const old = dot.stroke, before = now.hints, k = before.indexOf(old);
  let to = old;
  return {
    move: event => {
      const [x, y] = place(event);
      to = moved(old, x - old.points[0][0], y - old.points[0][1]);
      now.hints = before.with(k, to);
      dots();
    },
    end: () => { if (to == old) edit(old); else change(now.hints); },
    cancel: () => { now.hints = before; dots(); },
  };
}

let nudging;
function dotKey(dot, event) {
  const k = now.hints.indexOf(dot.stroke), far = Math.max(1, Math.round(now.width / 64));
  const [dx, dy] = {ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far]}[event.key] || [];
  if (event.key == "Delete" || event.key == "Backspace") {
    change(now.hints.toSpliced(k, 1));
    ($("dots").firstElementChild || $("aim")).focus();
  } else if (dx != null) {
    now.hints = now.hints.with(k, moved(dot.stroke, dx, dy));
    dots();
    clearTimeout(nudging);
    nudging = setTimeout(() => change(now.hints), 500);
  } else return;
  event.preventDefault();
}

function edit(stroke) {
  popover(stroke, color => change(now.hints.map(one => one == stroke ? {...one, color, radius: radius()} : one)));
}

const radius = () => Math.round($("size").value / 100 * Math.max(now.width, now.height));

follow($("aim"), event => {
  if (!coloring(now)) return null;
  close();
  const from = place(event), points = [from];
  if (tool == "area") return {
    move: last => frame(from, place(last)),
    end: last => { frame(); again(from, place(last)); },
    cancel: () => frame(),
  };
  return {
    move: last => {
      const to = place(last), step = Math.max(radius() / 2, now.width / 100, 1), before = points.at(-1);
      if (Math.hypot(to[0] - before[0], to[1] - before[1]) >= step) points.push(to);
      asked = {points, radius: radius()};
      dots();
    },
    end: () => spot(points),
    cancel: close,
  };
});

function frame(from, to) {
  $("box").hidden = !to;
  if (!to) return;
  const [left, right] = [from[0], to[0]].sort((a, b) => a - b), [top, bottom] = [from[1], to[1]].sort((a, b) => a - b);
  const share = (value, all) => `${value / all * 100}%`;
  Object.assign($("box").style, {
    left: share(left, now.width), top: share(top, now.height),
    width: share(right - left + 1, now.width), height: share(bottom - top + 1, now.height),
  });
}

function again(from, to) {  // another colouring of a part
  const [left, right] = [from[0], to[0]].sort((a, b) => a - b), [top, bottom] = [from[1], to[1]].sort((a, b) => a - b);
  recolor({box: [left, top, right + 1, bottom + 1], seed: null});
}

function spot(points) {  // asks for the colour of a spot, or of a stroke
  const stroke = {points, radius: radius(), color: null};
  popover(stroke, color => change([...now.hints, {points, color, radius: radius()}]));
}

let given = null;
const recent = [];
const popover = attempt(async (stroke, give) => {
  asked = stroke;
  given = give;
  dots();
  const dialog = $("colors"), area = $("stage").getBoundingClientRect(), [x, y] = stroke.points[0];
  $("swatches").replaceChildren(make("span", {textContent: "Looking …"}));
  $("recent").replaceChildren($("recent").firstElementChild, ...recent.map(color => swatch(color, `Recent colour ${color}`)));
  $("recent").hidden = !recent.length;
  if (stroke.color) $("any").value = stroke.color;
  dialog.show();
  const left = area.left + x / now.width * area.width + 22, top = area.top + y / now.height * area.height - 60;
  dialog.style.left = `${clamp(left + 300 > innerWidth ? left - 344 : left, 8, innerWidth - 308)}px`;
  dialog.style.top = `${clamp(top, 8, Math.max(8, innerHeight - dialog.offsetHeight - 60))}px`;
  const found = await (await ask(`${at(now)}/swatches?x=${x}&y=${y}`)).json();
  if (asked != stroke) return;
  $("swatches").replaceChildren(...found.map(({color, share}) => {
    const percent = share < .01 ? "< 1 %" : `${Math.round(100 * share)} %`;
    const button = swatch(color, `${color}, ${percent} likely`);
    button.append(make("span", {textContent: percent}));
    return button;
  }));
  if (found.length) $("swatches").firstElementChild.focus(); else $("any").focus();
});

function swatch(color, label) {
  const button = make("button", {onclick: () => pick(color)});
  button.style.background = color;
  button.setAttribute("aria-label", label);
  return button;
}

function pick(color) {
  const give = given;
  if (!recent.includes(color)) recent.unshift(color);
  recent.splice(6);
  close();
  $("aim").focus();
  give(color);
}

function close() {
  asked = given = null;
  $("colors").close();
  if (now) dots();
}

const aim = {x: .5, y: .5};
$("aim").addEventListener("keydown", event => {
  const far = event.shiftKey ? .1 : .02, by = {ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far]}[event.key];
  if (by) [aim.x, aim.y] = [clamp(aim.x + by[0], 0, .999), clamp(aim.y + by[1], 0, .999)];
  else if (event.key == "Enter" && coloring(now)) spot([[Math.floor(aim.x * now.width), Math.floor(aim.y * now.height)]]);
  else return;
  event.preventDefault();
  const cross = $("aim").firstElementChild;
  cross.hidden = false;
  Object.assign(cross.style, {left: `${aim.x * 100}%`, top: `${aim.y * 100}%`});
});
$("aim").addEventListener("blur", () => { $("aim").firstElementChild.hidden = true; });

follow($("compare"), () => ({move: event => split(clamp(place(event)[0] / now.width * 100, 0, 100))}));
$("compare").addEventListener("keydown", event => {
  const old = Number($("compare").getAttribute("aria-valuenow"));
  const to = {ArrowLeft: old - 5, ArrowDown: old - 5, ArrowRight: old + 5, ArrowUp: old + 5, Home: 0, End: 100}[event.key];
  if (to == null) return;
  split(clamp(to, 0, 100));
  event.preventDefault();
});

/* ---- controls ---- */

const map = attempt(async what => {
  $("maps").dataset.map = what;
  $("maps").querySelectorAll("input").forEach(one => { one.checked = one.value == what; });
  $("legend").hidden = !what;
  $("legend").lastElementChild.textContent = what == "unsure" ? "9 bits" : "12 bits";
  if (what && now) {
    painted = "";
    $("colored").src = `${at(now)}/${now.chosen}/${what}.map`;
  }
});

let adjusting;
for (const id of Object.keys(FRESH)) $(id).addEventListener("input", () => {
  now.adjust[id] = $(id).type == "checkbox" ? $(id).checked : Number($(id).value);
  remember();
  clearTimeout(adjusting);
  adjusting = setTimeout(refresh, 120);
});
$("reset").onclick = () => {
  now.adjust = {...FRESH};
  for (const [name, value] of Object.entries(FRESH)) $(name)[typeof value == "boolean" ? "checked" : "value"] = value;
  refresh();
};
for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => {
  tool = button.dataset.tool;
  $("stage").classList.toggle("area", tool == "area");
  document.querySelectorAll("[data-tool]").forEach(one => one.setAttribute("aria-pressed", one == button));
  close();
  refresh();
};
$("undo").onclick = () => step("past", "future");
$("redo").onclick = () => step("future", "past");
$("stop").onclick = stop;
$("new").onclick = clear;
$("cancel").onclick = () => { close(); $("aim").focus(); };
$("use").onclick = () => pick($("any").value);
$("others").onclick = () => draw(now, {samples: 4, seed: null, base: null});
$("draw").onclick = () => draw(now, {seed: seed(), base: null});
$("there").onclick = () => spot([[clamp($("x").valueAsNumber || 0, 0, now.width - 1), clamp($("y").valueAsNumber || 0, 0, now.height - 1)]]);
$("again").onclick = () => {
  const [x, y, w, h] = ["x", "y", "w", "h"].map(id => $(id).valueAsNumber);
  if (![x, y, w, h].every(Number.isInteger)) problem("An area needs x, y, width and height.");
  else again([x, y], [Math.min(x + w, now.width) - 1, Math.min(y + h, now.height) - 1]);
};
$("maps").addEventListener("change", event => { map(event.target.value); refresh(); });
$("zip").onclick = () => {
  const items = photos.filter(photo => coloring(photo)).map(photo => ["item", `${photo.key}/${photo.chosen}?${query(photo)}`]);
  make("a", {href: `/api/archive?${new URLSearchParams(items)}`, download: "coloured.zip"}).click();
};
$("problem").lastElementChild.onclick = () => problem("");

$("drop").onclick = () => $("file").click();
$("file").onchange = () => { open([...$("file").files]); $("file").value = ""; };
addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", () => document.body.classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) open([...event.dataTransfer.files]);
});
addEventListener("paste", event => { if (event.clipboardData.files.length) open([...event.clipboardData.files]); });
addEventListener("keydown", event => {
  if (event.key == "Escape" && asked) { close(); $("aim").focus(); }
  if (now && (event.ctrlKey || event.metaKey) && event.key.toLowerCase() == "z") {
    event.preventDefault();
    if (event.shiftKey) step("future", "past"); else step("past", "future");
  }
});
addEventListener("pagehide", stop);

attempt(async () => {
  about = await (await ask("/api/about")).json();
  $("limits").textContent = `Up to ${about.megabytes} MB and ${about.megapixels} megapixels · deleted an hour after its last use · colours are guesses`;
  $("demo").replaceChildren(...about.demo.map(name => {
    const button = make("button", {onclick: attempt(async () => {
      const content = await (await ask(`/demo/${name}.jpg`)).blob();
      await open([new File([content], `${name}.jpg`)]);
    })});
    button.append(make("img", {src: `/demo/${name}.jpg`, alt: `Try ${name}`}));
    return button;
  }));
  $("samples").max = $("particles").max = about.samples;
  await restore();
})();
