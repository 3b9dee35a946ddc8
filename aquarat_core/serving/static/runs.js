// The list is asked every few seconds; of a running stage's curves only what is new.

const EVERY = 3000;
const MOST = 4000;
const WORDS = { running: "running", stopping: "being stopped", starting: "starting", silent: "no sign of life",
  finished: "finished", failed: "failed", stopped: "stopped", replaced: "replaced", damaged: "unreadable record" };
const BADGES = { running: "", starting: "", finished: "right", failed: "wrong", damaged: "wrong", silent: "note",
  stopping: "note", stopped: "note", replaced: "note" };
const state = { found: null, tag: { value: null }, curve: null, timer: 0, asking: false, was: {} };

const wanted = () => new URLSearchParams(location.search);

async function refresh() {
  if (state.asking) return;
  state.asking = true;
  clearTimeout(state.timer);
  try {
    const headers = state.tag.value ? { "If-None-Match": state.tag.value } : {};
    const found = await get("runs/data", {}, { headers, tag: state.tag, cache: "no-store" });
    if (found) {
      state.found = found;
      draw();
    }
    await curves();
    show(byId("problems"));
  } catch (failure) {
    show(byId("problems"), band(failure.message));
  }
  state.asking = false;
  if (!document.hidden) state.timer = setTimeout(refresh, EVERY);
}

// --- the lists --------------------------------------------------------------------------------------------------------

const isActive = (job) => ["running", "stopping", "starting"].includes(job.state);

function draw() {
  const { jobs, store, left_out: more } = state.found;
  const active = jobs.filter(isActive);
  const focused = document.activeElement?.dataset?.job;
  show(byId("running"), active.length ? make("div", { class: "jobs" }, ...active.map(card))
    : make("p", { class: "quiet" }, `Nothing is running in ${visible(store)}. Start something: `,
      make("code", {}, "aquarat materialize rl_checkpoint --with-parents")));
  if (focused) byId("running").querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
  const rest = jobs.filter((job) => !isActive(job));
  show(byId("recent"), rest.length ? table(rest) : make("p", { class: "quiet" }, "There are no finished stages."),
    more ? make("p", { class: "quiet" }, `${more} older ones are not listed.`) : null);
  announce(jobs);
  choices();
}

/** Tells those who listen what began and what ended. */
function announce(jobs) {
  const said = jobs.filter((job) => job.id in state.was && state.was[job.id] !== job.state)
    .map((job) => `${job.stage} ${WORDS[job.state]}`);
  if (said.length) byId("spoken").textContent = said.join(", ");
  state.was = Object.fromEntries(jobs.map((job) => [job.id, job.state]));
}

function mark(job) {
  return make("span", { class: `badge ${BADGES[job.state]}` }, WORDS[job.state] || visible(job.state));
}

function card(job) {
  const far = job.progress;
  const share = far && far.total ? far.done / far.total : null;
  const bar = share === null ? null : make("progress", { max: 1, value: share,
    aria: { label: `${job.stage}: ${percent(share, 0)}` } });
  const left = far && far.eta ? `, about ${duration(far.eta)} left` : "";
  const done = far ? make("p", { class: "quiet" }, `${far.done.toLocaleString("en")} of ${far.total.toLocaleString("en")} `
    + `${visible(far.unit)}${left}`) : make("p", { class: "quiet" }, visible(job.why || "no progress reported yet"));
  const numbers = far ? make("dl", { class: "numbers" }, ...Object.entries(far.metrics).map(([name, value]) =>
    make("div", {}, make("dt", {}, visible(name)), make("dd", {}, short(value))))) : null;
  const button = make("button", { type: "button", data: { job: job.id } }, "Curves");
  button.addEventListener("click", () => choose(`job:${job.id}`));
  const where = job.hosts?.length ? ` on ${job.hosts.map(visible).join(", ")}` : "";
  return make("article", { class: "card job" }, make("h3", {}, visible(job.stage), mark(job),
    job.attempt > 1 ? make("span", { class: "quiet" }, `attempt ${job.attempt}`) : null),
  bar, done, numbers, make("p", { class: "quiet" }, `profile ${visible(job.profile || "")}${where}, since ${time(job.started)}`),
  button);
}

const time = (seconds) => when(new Date(1000 * seconds).toISOString());

function table(jobs) {
  const head = ["Stage", "State", "Profile", "Ended", "Took", "Run", "What happened"];
  return make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...jobs.map((job) => make("tr", {}, make("td", {}, stageName(job)), make("td", {}, mark(job)),
      make("td", {}, visible(job.profile || "")), make("td", { class: "when" }, time(job.changed)),
      make("td", { class: "when" }, duration(job.changed - job.started)),
      make("td", { class: "mono" }, visible(job.run.slice(0, 8))), make("td", { class: "why" }, visible(job.why || ""))))));
}

/** Stages that were trained have curves. */
function stageName(job) {
  if (!job.artifact || !state.found.checkpoints.some((one) => one.id === job.artifact)) return visible(job.stage);
  const link = make("a", { href: `${location.pathname}?artifact=${job.artifact}` }, visible(job.stage));
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    choose(`artifact:${job.artifact}`);
    byId("curves-title").scrollIntoView();
  });
  return link;
}

// --- curves -----------------------------------------------------------------------------------------------------------

function choices() {
  const { jobs, checkpoints } = state.found;
  const running = jobs.filter(isActive).map((job) => make("option", { value: `job:${job.id}` }, `${visible(job.stage)} · running`));
  const stored = checkpoints.map((one) => make("option", { value: `artifact:${one.id}` },
    `${named(one.asset, one.names)} · ${visible(one.profile)} · ${when(one.created)}`));
  const asked = chosen();
  if (asked && !state.found.checkpoints.concat(jobs).some((one) => asked.endsWith(`:${one.id}`))) {
    stored.push(make("option", { value: asked }, visible(asked.replace(/^[a-z]+:/, ""))));
  } else if (asked?.startsWith("job:") && !running.some((option) => option.value === asked)) {
    stored.unshift(make("option", { value: asked }, `${visible(asked.slice(4).split("/")[1])} · ended`));
  }
  if (document.activeElement === byId("whose") && byId("whose").options.length === running.length + stored.length) return;
  show(byId("whose"), ...running, ...stored);
  if (asked) byId("whose").value = asked;
}

/** What the address asks for, or else the first that is running, or the newest checkpoint. */
function chosen() {
  for (const kind of ["job", "artifact"]) if (wanted().get(kind)) return `${kind}:${wanted().get(kind)}`;
  const active = state.found.jobs.find((job) => isActive(job) && job.progress);
  if (active) return `job:${active.id}`;
  return state.found.checkpoints.length ? `artifact:${state.found.checkpoints[0].id}` : null;
}

function choose(key) {
  const [, kind, id] = /^([a-z]+):(.*)$/.exec(key);
  history.pushState(null, "", `${location.pathname}?${new URLSearchParams({ [kind]: id })}`);
  choices();
  refresh();
}

async function curves() {
  const key = chosen();
  if (!key) {
    show(byId("charts"), make("p", { class: "quiet" }, "There is nothing with curves yet."));
    return;
  }
  const [, kind, id] = /^([a-z]+):(.*)$/.exec(key);
  if (state.curve?.key === key && kind === "artifact") return;
  if (state.curve?.key !== key) state.curve = { key, rows: [], next: 0 };
  const mine = state.curve;
  let found;
  try {
    found = await get("runs/curves", { [kind]: id, after: mine.next });
  } catch (failure) {
    state.curve = null;
    throw failure;
  }
  if (mine !== state.curve || (mine.drawn && !found.rows.length)) return;
  mine.rows.push(...found.rows);
  mine.next = found.next;
  // A long run stays light: of old rows every second one goes.
  if (mine.rows.length > MOST) mine.rows = mine.rows.filter((_, i) => i % 2 || i > mine.rows.length - 200);
  drawCurves();
}

function drawCurves() {
  const mine = state.curve;
  if (!mine) return;
  mine.drawn = true;
  const figures = state.found.charts.map((one) => chart(one, mine.rows, byId("smooth").checked)).filter(Boolean);
  show(byId("charts"), ...(figures.length ? figures
    : [make("p", { class: "quiet" }, "No metrics yet: a stage reports them from its first step on.")]));
  const last = mine.rows.at(-1);
  byId("updated").textContent = last ? `up to step ${last[0].toLocaleString("en")}` : "";
}

byId("whose").addEventListener("change", () => choose(byId("whose").value));
byId("smooth").addEventListener("change", drawCurves);
addEventListener("popstate", () => { if (state.found) { choices(); refresh(); } });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
refresh();
