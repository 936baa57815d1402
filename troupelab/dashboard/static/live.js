// Draws the live panels: takes the figures and what is new in them from the kernel, and hands each frame to plotly.js.
// plotly.js itself comes from the kernel too, out of the installed Python package, once a page: nothing is asked of a CDN.
// All texts are put into Plotly escaped by the kernel, or into the page as textContent.

// Without the last two, plotly.js offers a button that uploads the chart to its maker.
const CONFIG = {
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  showSendToCloud: false,
  plotlyServerURL: "",
};
const PATIENCE_MS = 700;
const SILENCE_MS = 6000; // the kernel is heard every two seconds; after so long something is the matter
const DESCRIBE_EVERY_MS = 3000;
const REST = 2; // how long to rest after drawing, as a multiple of what the drawing and painting took

const FOLD = "troupelab-more-panels";

const slot = (version) => `__troupelab_plotly_${version}`;

async function evaluate(parts) {
  const plain = new Blob(parts).stream().pipeThrough(new DecompressionStream("gzip"));
  const source = await new Response(plain).text();
  const module = { exports: {} };
  const { Plotly: another } = globalThis;
  new Function("module", "exports", "define", source)(module, module.exports, undefined);
  globalThis.Plotly = another; // it names itself so; another version in the page keeps the name
  return module.exports;
}

function at(target, path) {
  return path.split(".").reduce((inner, name) => inner?.[name], target);
}

function put(target, path, value) {
  const names = path.split(".");
  const last = names.pop();
  for (const name of names) target = target[name] ??= {};
  target[last] = value;
}

// Cuts an array at `start` and adds what is new; a matrix arrives as rows of `width` numbers, each a copy: a view would hold its whole frame.
function extend(trace, { key, start, texts, from, length, width }, numbers) {
  const array = at(trace, key) ?? [];
  array.length = start;
  if (texts) array.push(...texts);
  else if (width) for (let i = from; i < from + length; i += width) array.push(numbers.slice(i, i + width));
  else for (let i = from; i < from + length; i += 1) array.push(numbers[i]);
  put(trace, key, array);
}

// Spreads the marks, which all panels share, into a trace: a line of some points that can be hovered over, with a symbol at its top.
// A mark that is a foot has only a symbol on the axis.
const HEIGHTS = [0, 0.25, 0.5, 0.75, 1];

function spread(marks) {
  const x = [], y = [], text = [], size = [], symbol = [], color = [];
  for (const [at, sign, shade, words, foot] of marks) {
    const heights = foot ? [0] : HEIGHTS;
    for (const height of [...heights, null]) {
      x.push(at), y.push(height), text.push(words), symbol.push(sign), color.push(shade);
      size.push(height === heights[heights.length - 1] ? (foot ? 7 : 9) : 0);
    }
  }
  return { x, y, text, marker: { size, symbol, color } };
}

// Ends the plot where the room for direct labels begins, which is so many pixels wide at any width.
function fit(layout, data, width) {
  const end = Math.max(0.4, 1 - layout.meta.labels_px / (width - layout.margin.l - layout.margin.r));
  layout.width = width;
  layout.xaxis.domain = [0, end];
  if (layout.xaxis2) layout.xaxis2.domain = [end + 0.005, 1];
  for (const trace of data) if (trace.colorbar) trace.colorbar.x = end + 0.012;
}

// A fold for the panels that most runs can do without; whether it is open is kept for the next time.
function fold(opened) {
  const box = document.createElement("details");
  const told = box.appendChild(document.createElement("summary"));
  const grid = box.appendChild(document.createElement("div"));
  box.className = "troupelab-more";
  grid.className = "troupelab-grid";
  told.textContent = "more panels: answers without a request, tokens and cost, errors, process memory";
  try {
    box.open = localStorage.getItem(FOLD) === "open";
  } catch {}
  box.addEventListener("toggle", () => {
    try {
      localStorage.setItem(FOLD, box.open ? "open" : "folded");
    } catch {} // a page may have no storage
    opened();
  });
  return { box, grid };
}

// Resolves when what was drawn has been painted, or after a while where nothing is painted.
function painted() {
  const frames = new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return Promise.race([frames, pause(200)]);
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// Jupyter takes arrows, Enter and letters for its own wherever the focus is, but where the element itself says otherwise.
// Those with Ctrl or Cmd (save, run) stay Jupyter's.
function keepKeys({ target, ctrlKey, metaKey }) {
  if (!target.closest?.(".troupelab-lab, .troupelab-dashboard") || target.matches(":read-write")) return;
  target.toggleAttribute("data-lm-suppress-shortcuts", !ctrlKey && !metaKey);
}

// Gives the parts of ipywidgets what they lack for people without a mouse or without eyes; each part once.
function nameParts(root) {
  const fresh = (selector) => [...root.querySelectorAll(`${selector}:not([data-troupelab])`)].map((part) => {
    part.dataset.troupelab = "named";
    return part;
  });
  for (const handle of fresh(".noUi-handle")) nameHandle(handle);
  for (const bar of fresh(".widget-hprogress .progress")) {
    bar.setAttribute("role", "progressbar");
    bar.setAttribute("aria-label", bar.parentElement.querySelector(".widget-label")?.title || "progress");
    const tell = () => bar.setAttribute("aria-valuenow", Math.round(parseFloat(bar.firstElementChild?.style.width) || 0));
    new MutationObserver(tell).observe(bar, { attributeFilter: ["style"], subtree: true });
    tell();
  }
  for (const rows of fresh(".troupelab-rows")) {
    rows.tabIndex = 0;
    rows.setAttribute("role", "region");
    rows.setAttribute("aria-label", "rows, which scroll");
  }
  for (const input of fresh(".widget-tagsinput input, .jupyter-widget-tagsinput input")) input.setAttribute("aria-label", input.placeholder || "names");
  // The headers of folds answer to clicks alone.
  for (const header of fresh(".jupyter-widget-Collapse-header")) {
    header.tabIndex = 0;
    header.setAttribute("role", "button");
    const tell = () => header.setAttribute("aria-expanded", header.parentElement.classList.contains("jupyter-widget-Collapse-open"));
    new MutationObserver(tell).observe(header.parentElement, { attributeFilter: ["class"] });
    tell();
    header.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      header.click();
    });
  }
}

// A handle has no name of its own, and tells a place in a list where people want the value.
function nameHandle(handle) {
  const box = handle.closest(".widget-hslider, .widget-inline-hbox");
  const name = box?.querySelector(".widget-label")?.textContent || "slider";
  const readout = box?.querySelector(".widget-readout");
  handle.setAttribute("aria-label", name);
  if (!readout) return;
  readout.setAttribute("role", "textbox");
  readout.setAttribute("aria-label", `${name}, typed`);
  const tell = () => {
    if (handle.getAttribute("aria-valuetext") !== readout.textContent) handle.setAttribute("aria-valuetext", readout.textContent);
  };
  new MutationObserver(tell).observe(readout, { childList: true, characterData: true, subtree: true });
  new MutationObserver(tell).observe(handle, { attributeFilter: ["aria-valuetext"] });
  tell();
}

// A label of Plotly's as plain text; a document that is parsed and never shown runs nothing.
function plain(label) {
  const text = String(label ?? "").replace(/<br>/g, ", ");
  return new DOMParser().parseFromString(text, "text/html").body.textContent.replace("■ ", "").trim();
}

// What a chart shows, in words, for those who do not see it: its title and its newest labels.
function describe(layout) {
  const labels = (layout.annotations ?? []).map((note) => plain(note.text)).filter(Boolean);
  return [plain(layout.title?.text), ...labels].join("; ");
}

function render({ model, el }) {
  const view = Math.random().toString(36).slice(2);
  const name = slot(model.get("plotly_version"));
  const panels = new Map();
  const parts = [];
  const marks = [];
  let zoom = null;
  let served = false;
  let drawing = false;
  let acks = [];
  const observed = [];
  const more = fold(() => schedule());

  el.classList.add("troupelab-panels");
  const waiting = document.createElement("div");
  waiting.className = "troupelab-waiting";
  waiting.textContent = "The charts are on their way from the kernel…";
  el.replaceChildren(waiting);

  const root = () => el.closest(".troupelab-lab") ?? el.closest(".troupelab-dashboard") ?? el;

  const notice = document.createElement("div");
  notice.className = "troupelab-notice";
  notice.setAttribute("role", "status");
  let heard = performance.now();
  let last = 0;

  function say(message) {
    try {
      model.send(message);
    } catch {
      // The kernel is gone, which `watch` says.
    }
  }

  // Says so when the kernel is silent, and asks it for everything again, in case that it took this page for closed.
  function watch() {
    if (!el.clientWidth || document.hidden) return;
    const over = el.closest(".jupyter-widgets-disconnected");
    const silent = performance.now() - heard > SILENCE_MS;
    const text = over
      ? "The kernel of these charts is gone, and its run is over: run the cell again."
      : silent ? "Nothing was heard from the kernel for some seconds: it is busy, or the connection is lost. The charts go on when it is back; if it was restarted, run the cell again." : "";
    if (notice.textContent !== text) notice.textContent = text;
    if (!text) notice.remove();
    else if (!notice.isConnected) el.append(notice);
    if (silent && !over) say({ kind: "ready", view, library: name in globalThis, again: true });
  }

  function make(id, figure) {
    const folded = Boolean(figure.layout.meta.folded);
    if (folded && !more.box.isConnected) el.appendChild(more.box);
    const div = panels.get(id)?.div ?? (folded ? more.grid : el).appendChild(document.createElement("div"));
    sight.observe(div);
    div.className = "troupelab-panel";
    div.dataset.panel = id;
    div.setAttribute("role", "figure");
    div.style.height = `${figure.layout.height}px`;
    const { live = false, seen = false } = panels.get(id) ?? {};
    panels.set(id, { div, data: figure.data, layout: figure.layout, dirty: true, live, seen });
  }

  function take(header, numbers) {
    for (const [id, figure] of Object.entries(header.figures ?? {})) make(id, figure);
    for (const [id, patch] of Object.entries(header.panels)) {
      const panel = panels.get(id);
      if (!panel) continue;
      for (const one of patch.puts) extend(panel.data[one.trace], one, numbers);
      for (const [trace, settings] of patch.settings)
        for (const [path, value] of Object.entries(settings)) put(panel.data[trace], path, value);
      for (const [path, value] of Object.entries(patch.layout)) put(panel.layout, path, value);
      panel.dirty = true;
    }
    if (!header.marks) return;
    marks.length = header.marks.start;
    marks.push(...header.marks.rows);
    const shown = spread(marks);
    for (const panel of panels.values()) {
      for (const trace of panel.data) if (trace.legendgroup === "marks") Object.assign(trace, shown, { marker: { ...trace.marker, ...shown.marker } });
      panel.dirty = true;
    }
  }

  // What nobody sees, folded away or scrolled out of view, is not drawn: it stays due until it comes into view.
  const sight = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const panel = panels.get(target.dataset.panel);
        if (panel) panel.seen = isIntersecting;
      }
      if (anyDue()) schedule();
    },
    { rootMargin: "150px", scrollMargin: "150px" },
  );
  observed.push(sight);
  const due = (panel) => panel.dirty && panel.seen && panel.div.clientWidth && !document.hidden;
  const anyDue = () => [...panels.values()].some(due);

  async function draw() {
    const Plotly = globalThis[name];
    if (drawing || !Plotly || !panels.size) return;
    drawing = true;
    waiting.remove();
    const began = performance.now();
    const done = acks;
    acks = [];
    const color = getComputedStyle(el).color;
    for (const [id, panel] of panels) {
      if (!due(panel)) continue;
      const width = panel.div.clientWidth;
      panel.dirty = false;
      const layout = structuredClone(panel.layout);
      fit(layout, panel.data, width);
      layout.datarevision = Math.random();
      layout.font.color = color;
      if (zoom && !layout.xaxis.fixedrange) layout.xaxis.range = [...zoom];
      await Plotly.react(panel.div, panel.data, layout, CONFIG);
      if (!panel.live) listen(id, panel);
      panel.live = true;
      if (!(began - panel.described < DESCRIBE_EVERY_MS)) {
        panel.described = began;
        panel.div.setAttribute("aria-label", describe(layout));
      }
    }
    nameParts(root());
    for (const seq of done) say({ kind: "ack", view, seq });
    if (!document.hidden) {
      // A page that draws slowly draws less often: most of its main thread stays free for people's hands.
      await painted();
      await pause(Math.min(1000, REST * (performance.now() - began)));
    }
    drawing = false;
    if (acks.length || anyDue()) schedule();
  }

  function schedule() {
    if (document.hidden) setTimeout(draw, 0);
    else requestAnimationFrame(draw);
  }

  function listen(id, panel) {
    panel.div.on("plotly_relayout", (change) => {
      if (change["xaxis.range[0]"] !== undefined) zoom = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      else if ("xaxis.autorange" in change || "xaxis.range" in change) zoom = null;
      else return;
      redraw();
    });
    panel.div.on("plotly_click", ({ points }) => say({ kind: "click", view, panel: id, x: points[0].x, y: points[0].y, trace: points[0].curveNumber }));
  }

  function redraw() {
    for (const panel of panels.values()) panel.dirty = true;
    schedule();
  }

  async function hear(content, buffers) {
    heard = performance.now();
    // What was sent meanwhile may be lost, and would leave a gap in the lines.
    const gap = content.kind === "frame" && !content.figures && served && content.seq > last + 1;
    if (content.kind === "frame") last = content.seq;
    if (gap || notice.isConnected) say({ kind: "ready", view, library: name in globalThis, again: true });
    if (notice.isConnected) watch();
    if (content.kind === "library") {
      parts[content.part] = buffers[0];
      if (globalThis[name] || parts.filter(Boolean).length < content.parts) return;
      const library = await evaluate(parts.splice(0));
      globalThis[name] ??= library;
      schedule();
    } else if (content.kind === "frame") {
      if (content.figures) served = true;
      if (!served) return;
      const raw = buffers[0];
      take(content, raw ? new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength)) : null);
      acks.push(content.seq);
      schedule();
    }
  }

  let asked = 0;
  const ask = () => {
    if (!served) say({ kind: "ready", view, library: name in globalThis, again: asked++ > 12 });
    else if (globalThis[name]) clearInterval(asking);
    nameParts(root());
  };
  const asking = setInterval(ask, PATIENCE_MS);
  const watching = setInterval(watch, 1000);
  model.on("msg:custom", hear);
  ask();
  // JupyterLab sends each control's first message to the kernel's main thread, later ones past it: spend the first one now.
  for (const id of model.get("controls")) {
    model.widget_manager.get_model(id).then((control) => control.send({ kind: "warm" }, {}), () => {});
  }

  const resized = new ResizeObserver(redraw);
  resized.observe(el);
  const themed = new MutationObserver(redraw);
  themed.observe(document.body, { attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
  observed.push(resized, themed);
  document.addEventListener("visibilitychange", redraw);
  window.addEventListener("keydown", keepKeys, true); // stays for other views; the same listener is added but once
  const named = () => setTimeout(() => nameParts(root()), 300);
  document.addEventListener("click", named);

  return () => {
    clearInterval(asking);
    clearInterval(watching);
    model.off("msg:custom", hear);
    for (const observer of observed) observer.disconnect();
    document.removeEventListener("visibilitychange", redraw);
    document.removeEventListener("click", named);
    for (const panel of panels.values()) globalThis[name]?.purge(panel.div);
    say({ kind: "gone", view });
  };
}

export default { render };
