// One question: the prompt, both answers, and its history. `explore.js` has the page's state.

const MARKS = { right: "right", wrong: "wrong", form: "wrong form" };
const SIGNS = { right: "✓", wrong: "✗", form: "?" };

const short = (name) => visible(String(name || "").replace(/_checkpoint$|_eval_report$/, "")).toUpperCase();

function checkpointName(report) {
  return named(short(report.checkpoint || report.asset), report.on_names);
}

function badge(mark) {
  return make("span", { class: `badge ${mark}` }, `${SIGNS[mark]} ${MARKS[mark]}`);
}

/** The prompt, with the right option marked where options are listed with letters. */
function promptBox(question) {
  const box = make("pre", { class: "card prompt" });
  const lines = visible(question.prompt).split("\n");
  lines.forEach((line, i) => {
    const letter = /^.* = ([A-Z])$/.exec(line)?.[1];
    const gold = letter && question.letters.length && letter === question.gold;
    box.append(gold ? make("span", { class: "option gold" }, line) : line, i < lines.length - 1 ? "\n" : "");
  });
  return box;
}

function scoreList(scores, letters) {
  const top = Math.max(...scores);
  const total = scores.reduce((sum, x) => sum + Math.exp(x - top), 0);
  const named = scores.map((x, i) => `${letters[i] || i}: ${x.toFixed(2)} (${percent(Math.exp(x - top) / total, 0)})`);
  return make("p", {}, `log-probabilities of the choices, and their shares: ${named.join(", ")}`);
}

function answerBox(answer, question) {
  const facts = [badge(answer.mark)];
  if (answer.parsed !== null) facts.push(`answered ${visible(answer.parsed)}`);
  if (answer.sample) facts.push(`answer ${answer.sample + 1}`);
  if (answer.gold !== question.gold) facts.push(`right is ${visible(answer.gold)} here, the options were in another order`);
  if (answer.tokens) facts.push(`${answer.tokens} tokens`);
  if (answer.stop_reason === "length") facts.push("cut off by the limit of tokens");
  if (answer.stop_reason === "too_long") facts.push("not asked: the prompt is too long for the context");
  const words = facts.map((fact) => (typeof fact === "string" ? make("span", {}, fact) : fact));
  return make("div", { class: "answer" }, make("p", {}, ...words),
    answer.text ? make("pre", {}, visible(answer.text)) : null,
    answer.scores ? scoreList(answer.scores, question.letters) : null);
}

function sideBox(side, question) {
  const mine = side.answers.length;
  const title = make("h3", {}, checkpointName(side), make("span", { class: "quiet" }, `${side.profile}, ${when(side.created)}`));
  const answers = side.answers.map((answer) => answerBox(answer, question));
  const more = side.left_out ? make("p", { class: "quiet" }, `and ${side.left_out} more answers`) : null;
  return make("section", { class: "card side" }, title,
    ...(mine ? answers : [make("p", { class: "quiet" }, "was not asked this question")]), more);
}

function questionView(question, chosen) {
  const differs = question.differs
    ? make("p", { class: "band" }, "The two were asked with different prompts (or the options in another order), so this "
      + "question is not counted as fixed or broken.") : null;
  const history = make("div", { id: "history", aria: { live: "polite" } }, make("p", { class: "quiet" }, "reading the history…"));
  const inside = make("div", { id: "inside" });
  show(byId("detail"),
    make("h2", {}, "Question", make("span", { class: "mono" }, visible(question.id))),
    promptBox(question),
    make("p", { class: "quiet" }, `The right answer is ${visible(question.gold)}.`),
    differs,
    make("div", { class: "sides" }, ...question.sides.map((side) => sideBox(side, question))),
    make("h2", {}, "History"), history,
    make("h2", {}, "Inside the checkpoint"), inside);
  historyView(chosen);
  insideView(question, chosen);
}

async function historyView(chosen) {
  const box = byId("history");
  let found;
  try {
    found = await get("explore/history", { report: chosen.report, evaluation: chosen.evaluation, question: chosen.question });
  } catch (failure) {
    if (box.isConnected) show(box, band(failure.message));
    return;
  }
  if (!box.isConnected) return;
  const steps = found.entries.map((entry) => make("li", {}, step(entry, chosen)));
  const more = found.left_out ? make("p", { class: "quiet" }, `${found.left_out} more reports are not shown.`) : null;
  show(box, make("ol", { class: "history" }, ...steps), more);
}

function step(entry, chosen) {
  const name = make("b", {}, checkpointName(entry));
  const time = make("small", {}, when(entry.created));
  if (entry.problem) return make("span", { class: "step" }, name, make("small", {}, visible(entry.problem)), time);
  const right = entry.answers.filter((answer) => answer.mark === "right").length;
  const n = entry.answers.length;
  const mark = n === 1 ? badge(entry.answers[0].mark)
    : make("span", { class: `badge ${right === n ? "right" : right ? "note" : "wrong"}` }, `${right} of ${n} right`);
  const said = n === 1 && entry.answers[0].parsed !== null ? ` ${visible(entry.answers[0].parsed)}` : "";
  const note = entry.differs ? make("small", {}, "asked with another prompt") : null;
  const link = linkTo({ report: entry.id, other: null, page: null, filter: null }, {}, name, " ", mark, said, note, time);
  if (entry.id === chosen.report) link.setAttribute("aria-current", "true");
  return link;
}
