"""The look of a report page: system fonts, one accent, light and dark by the reader's preference."""

STYLESHEET = """
:root { color-scheme: light dark;
  --paper: #fbfbfa; --card: #ffffff; --ink: #20242c; --muted: #69707d; --line: #dfe2e8;
  --series-1: #2563eb; --series-2: #d97706; --series-3: #059669; --series-4: #9333ea;
  --good: #047857; --good-bg: #d7f5e6; --bad: #b42318; --bad-bg: #fde4e1; --note: #8a5a00; --note-bg: #fdf0d5; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14161b; --card: #1b1e25; --ink: #e7e9ee; --muted: #9aa2b1; --line: #31353f;
  --series-1: #7aa7ff; --series-2: #f5b04c; --series-3: #46d39a; --series-4: #c79bff;
  --good: #6ee7b0; --good-bg: #12382a; --bad: #ff9d92; --bad-bg: #43201d; --note: #f5c66b; --note-bg: #3b2f14; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1rem; }
header p { color: var(--muted); margin: .25rem 0 0; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: .9rem; font-weight: 600; margin: 0 0 .5rem; color: var(--muted); }
p { max-width: 46rem; }
p.finding, p.warning { border-left: 3px solid var(--series-1); background: var(--card); padding: .7rem 1rem;
  margin: 1rem 0; max-width: none; }
p.warning { border-color: var(--series-2); background: var(--note-bg); color: var(--note); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; }
.tile, figure, .sample { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.tile { padding: .8rem 1rem; display: flex; flex-direction: column; }
.tile .label { color: var(--muted); font-size: .82rem; }
.tile .value { font-size: 1.65rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.3; }
.tile .note { font-size: .82rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
p.caption { color: var(--muted); font-size: .9rem; margin: 0 0 .4rem; }
th { font-weight: 600; color: var(--muted); border-bottom: 1px solid var(--muted); vertical-align: bottom; }
th, td { padding: .4rem .8rem .4rem 0; text-align: left; }
td { border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: break-word; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
figure { overflow-x: auto; margin: 1rem 0; padding: 1rem; }
figure svg { display: block; width: 100%; height: auto; max-width: var(--width); }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--muted); font-size: .82rem; margin-top: .5rem; }
.sample { padding: .8rem 1rem; margin: .75rem 0; }
.sample h3 a { color: inherit; text-decoration: none; }
.sample h3 a:hover, .sample h3 a:focus { text-decoration: underline; }
.explore a { color: var(--series-1); }
.explore { font-size: .82rem; margin: .5rem 0 0; }
details { margin: .75rem 0; }
summary { cursor: pointer; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.pair pre + pre { border-left: 1px solid var(--line); padding-left: 1rem; }
@media (max-width: 44rem) { figure svg { min-width: min(32rem, .6 * var(--width, 53rem)); }
  .pair { grid-template-columns: 1fr; }
  .pair pre + pre { border-left: 0; border-top: 1px solid var(--line); padding: .6rem 0 0; } }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.badge { font-size: .75rem; font-weight: 600; border-radius: 1rem; padding: .1rem .55rem; margin-left: .4rem; }
.badge.right { color: var(--good); background: var(--good-bg); }
.badge.wrong { color: var(--bad); background: var(--bad-bg); }
.badge.no-answer { color: var(--note); background: var(--note-bg); }
@media print { body { background: white; } .sample, figure, .tile { break-inside: avoid; } }
"""
