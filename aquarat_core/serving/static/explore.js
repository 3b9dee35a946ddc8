// The page's state is its address: `go` changes it, `render` shows what it says.

const STATE = ["report", "other", "evaluation", "filter", "text", "page", "question", "look", "sample", "token", "layer",
  "head", "shade"];
const OF_QUESTION = ["question", "look", "sample", "token", "layer", "head"];
const shown = { list: null, question: null, inside: null, reports: null, found: null };
let turn = 0;

function current() {
  const query = new URLSearchParams(location.search);
  return Object.fromEntries(STATE.map((name) => [name, query.get(name)]).filter(([, value]) => value));
}

/** The address with some values changed; null takes one away. */
function address(changes) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...current(), ...changes })) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  return `${location.pathname}${query.size ? `?${query}` : ""}`;
}

function go(changes, replace = false) {
  const there = address(changes);
  if (there === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", there);
  render();
}

/** A link that changes the state; it can be copied, or opened in another tab. */
function linkTo(changes, options, ...children) {
  const link = make("a", { ...options, href: address(changes) }, ...children);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(changes);
  });
  return link;
}

async function render() {
  const mine = ++turn;
  const chosen = current();
  try {
    shown.reports ||= await get("explore/reports");
    if (mine !== turn) return;
    if (!shown.reports.first) {
      nothing();
      return;
    }
    chosen.report ||= shown.reports.first;
    await renderList(chosen, mine);
    if (mine !== turn) return;
    await renderQuestion(chosen, mine);
  } catch (failure) {
    if (mine === turn) show(byId("problems"), band(failure.message));
  }
}

function nothing() {
  byId("choice").hidden = true;
  show(byId("detail"), make("p", {}, `The store ${shown.reports.store} has no eval report yet. Make one: `,
    make("code", {}, "aquarat materialize rl_eval_report --with-parents")));
}

// --- the list ---------------------------------------------------------------------------------------------------------

async function renderList(chosen, mine) {
  const asked = { report: chosen.report, other: chosen.other, evaluation: chosen.evaluation, filter: chosen.filter,
    text: chosen.text, page: chosen.page };
  const key = JSON.stringify(asked);
  if (shown.list !== key) {
    byId("list").setAttribute("aria-busy", "true");
    try {
      // A link from elsewhere opens the page of the list that has its question.
      const around = shown.list === null && !chosen.page ? chosen.question : null;
      shown.found = await get("explore/questions", { ...asked, around });
    } catch (failure) {
      if (mine === turn) broken(chosen);
      throw failure;
    } finally {
      byId("list").setAttribute("aria-busy", "false");
    }
    if (mine !== turn) return;
    shown.list = key;
  }
  show(byId("problems"));
  chosen.report = shown.found.report.id;
  chosen.evaluation = shown.found.evaluation;
  choices(chosen, shown.found);
  filters(chosen, shown.found);
  list(chosen, shown.found);
}

/** The choice of reports stays usable when one of them cannot be read. */
function broken(chosen) {
  shown.list = null;
  choices(chosen, { report: { id: chosen.report }, other: null, evaluations: [], evaluation: "" });
  show(byId("filters"));
  show(byId("questions"));
  show(byId("detail"));
  byId("found").textContent = "";
}

function reportName(report) {
  return `${checkpointName(report)} · ${visible(report.profile)} · ${when(report.created)}`;
}

function choices(chosen, found) {
  const reports = shown.reports.reports.map((report) => make("option", { value: report.id }, reportName(report)));
  show(byId("report"), ...reports);
  byId("report").value = found.report.id;
  show(byId("other"), make("option", { value: "none" }, "nothing"), ...reports.map((option) => option.cloneNode(true)));
  byId("other").value = found.other ? found.other.id : chosen.other || "none";
  show(byId("evaluation"), ...found.evaluations.map((one) => make("option", { value: one.name },
    `${visible(one.name) || "the only one"} (${percent(one.accuracy)} of ${one.questions.toLocaleString("en")})`)));
  byId("evaluation").value = found.evaluation;
  if (document.activeElement !== byId("text")) byId("text").value = chosen.text || "";
}

function filters(chosen, found) {
  const now = checkpointName(found.report);
  const names = { all: "All", fixed: `${now} fixed it`, broke: `${now} broke it`, form: "Wrong form",
    wrong: "All wrong", right: "All right" };
  const buttons = Object.entries(names).filter(([name]) => found.other || !["fixed", "broke"].includes(name));
  const before = document.activeElement?.dataset?.filter;
  show(byId("filters"), ...buttons.map(([name, text]) => {
    const button = make("button", { type: "button", data: { filter: name },
      aria: { pressed: String((chosen.filter || "all") === name) } }, `${text} `,
    make("span", { class: "count" }, found.counts[name].toLocaleString("en")));
    button.addEventListener("click", () => go({ filter: name === "all" ? null : name, page: null }));
    return button;
  }));
  if (before) byId("filters").querySelector(`[data-filter="${before}"]`)?.focus();
}

function list(chosen, found) {
  const n = found.counts[chosen.filter || "all"] || 0;
  const whose = found.other ? `marks: ${checkpointName(found.other)}, then ${checkpointName(found.report)}` : "";
  byId("found").textContent = n ? `${n.toLocaleString("en")} question${n === 1 ? "" : "s"}${whose ? `; ${whose}` : ""}`
    : "No question is like this. Choose another filter, or another text.";
  const focused = document.activeElement?.dataset?.question;
  show(byId("questions"), ...found.questions.map((question) => {
    const link = linkTo({ question: question.id, look: null, sample: null, token: null, evaluation: found.evaluation },
      { data: { question: question.id } },
      make("span", { class: "dots" }, found.other ? dot(question.before, false) : null, dot(question.now, question.form)),
      make("span", { class: "words" }, visible(question.text) || visible(question.id)));
    if (question.id === chosen.question) link.setAttribute("aria-current", "true");
    return make("li", {}, link);
  }));
  if (focused) Array.from(byId("questions").querySelectorAll("a")).find((a) => a.dataset.question === focused)?.focus();
  byId("pager").hidden = found.pages < 2;
  byId("place").textContent = `page ${found.page + 1} of ${found.pages.toLocaleString("en")}`;
  byId("back").disabled = found.page === 0;
  byId("forth").disabled = found.page + 1 >= found.pages;
}

function dot(share, form) {
  if (share === null) return make("span", { class: "dot", title: "not asked alike" }, "–");
  const mark = share === 1 ? "right" : share ? "some" : form ? "form" : "wrong";
  const words = { right: "right", some: `${percent(share, 0)} right`, form: "wrong form", wrong: "wrong" };
  return make("span", { class: `dot ${mark}`, title: words[mark] }, { right: "✓", some: "½", form: "?", wrong: "✗" }[mark],
    make("span", { class: "visually-hidden" }, words[mark]));
}

// --- the question -------------------------------------------------------------------------------------------------------

async function renderQuestion(chosen, mine) {
  if (!chosen.question) {
    shown.question = null;
    show(byId("detail"), make("p", { class: "quiet" }, "Choose a question from the list."));
    return;
  }
  const asked = { report: chosen.report, other: chosen.other, evaluation: chosen.evaluation, question: chosen.question };
  const key = JSON.stringify(asked);
  const inside = JSON.stringify([chosen.look, chosen.sample]);
  if (shown.question === key) {
    if (shown.inside !== inside) insideView(shown.data, chosen);
    else lookedAt(chosen);
    shown.inside = inside;
    return;
  }
  byId("detail").setAttribute("aria-busy", "true");
  try {
    shown.data = await get("explore/question", asked);
  } finally {
    byId("detail").setAttribute("aria-busy", "false");
  }
  if (mine !== turn) return;
  const first = shown.question === null && !chosen.look;
  shown.question = key;
  shown.inside = inside;
  questionView(shown.data, chosen);
  const narrow = matchMedia("(max-width: 56rem)").matches;
  if (narrow && !first) byId("detail").scrollIntoView({ block: "start" });
}

/** Another token, layer, head or shade of what is shown already. */
function lookedAt(chosen) {
  if (!chosen.look || !byId("tokens")) return;
  const place = wantedToken(chosen);
  if (place !== seen.wanted) pick(place);
  if (!seen.map) return;
  const layer = Number(chosen.layer ?? seen.layers - 1);
  const head = Number(chosen.head ?? 0);
  Object.entries({ layer, head, shade: chosen.shade || "probability" }).forEach(([id, value]) => { byId(id).value = value; });
  if (layer !== seen.map.layer || head !== seen.map.head) attention(layer, head, chosen.shade);
  else shadeTokens(chosen.shade);
}

// --- events -------------------------------------------------------------------------------------------------------------

const forget = Object.fromEntries(OF_QUESTION.map((name) => [name, null]));
byId("report").addEventListener("change", () => go({ report: byId("report").value, other: null, page: null, look: null,
  token: null, sample: null }));
byId("other").addEventListener("change", () => go({ other: byId("other").value, page: null, look: null, token: null }));
byId("evaluation").addEventListener("change", () => go({ ...forget, evaluation: byId("evaluation").value, page: null }));
byId("choice").addEventListener("submit", (event) => event.preventDefault());
let typing = 0;
byId("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ text: byId("text").value.trim(), page: null }, true), 300);
});
byId("back").addEventListener("click", () => go({ page: shown.found.page - 1 || null }));
byId("forth").addEventListener("click", () => go({ page: shown.found.page + 1 }));
addEventListener("popstate", render);
render();
