async function start() {
  let found;
  try {
    found = await get("reports/data");
  } catch (failure) {
    show(byId("problems"), band(failure.message));
    return;
  }
  byId("store").textContent = `of the store ${visible(found.store)}, the newest first`;
  if (!found.reports.length) {
    show(byId("table"), make("p", {}, "There is no report yet. Make one: ",
      make("code", {}, "aquarat materialize rl_eval_report --with-parents")));
    return;
  }
  const head = ["Report", "On", "Accuracy", "95 % interval", "Questions", "Profile", "Made", "Explorer"];
  const numbers = [2, 3, 4];
  show(byId("table"), make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", { scope: "col",
      class: numbers.includes(i) ? "number" : "" }, text)))),
    make("tbody", {}, ...found.reports.map((report) => row(report, found.explorer)))),
  found.left_out ? make("p", { class: "quiet" }, `${found.left_out} older reports are not listed.`) : null);
}

function row(report, explorer) {
  const interval = report.lo === null ? "" : `${percent(report.lo)} to ${percent(report.hi)}`;
  const link = explorer && report.questions_kept
    ? make("a", { href: `${root}/explore?report=${report.id}` }, "Questions") : null;
  return make("tr", {},
    make("td", {}, make("a", { href: `${root}/reports/${report.id}` }, named(report.asset, report.names))),
    make("td", {}, named(report.checkpoint || "", report.on_names)),
    make("td", { class: "number" }, report.accuracy === null ? "" : percent(report.accuracy)),
    make("td", { class: "number interval" }, interval),
    make("td", { class: "number" }, report.questions === undefined || report.questions === null ? ""
      : Number(report.questions).toLocaleString("en")),
    make("td", {}, visible(report.profile)),
    make("td", { class: "when" }, when(report.created)),
    make("td", {}, link));
}

start();
