"use strict";
// All text of queries, documents and judges goes in as textContent: it is data, never markup.
const $ = (id) => document.getElementById(id);
const NAMES = ["bad", "fair", "good", "excellent"];
let pair = null, busy = false;
// This tab's sitting: its own order, and its own grades to undo; a reload keeps both.
const sitting = sessionStorage.getItem("sitting") || crypto.randomUUID();
sessionStorage.setItem("sitting", sitting);

function put(id, text) { $(id).textContent = text; }

function show(state) {
  pair = state.pair;
  put("progress", `${state.graded} of ${state.total} graded`);
  $("bar").max = Math.max(state.total, 1);
  $("bar").value = state.graded;
  $("pair").hidden = !pair;
  $("done").hidden = Boolean(pair);
  for (const button of document.querySelectorAll('[data-act="undo"]')) button.disabled = !state.undoable;
  if (pair) {
    put("query", pair.query);
    put("locale", pair.locale);
    put("title", pair.title);
    put("doc", pair.doc_id);
    put("body", pair.body);
    $("evidence").hidden = !pair.evidence.length;
    $("pieces").replaceChildren(...pair.evidence.map((piece) => item(`${piece.source}: ${piece.text}`)));
    $("note").value = "";
  }
  reveal(state.judged);
}

function item(text) {
  const line = document.createElement("li");
  line.dir = "auto";
  line.textContent = text;
  return line;
}

function reveal(judged) {
  $("judged").hidden = !judged;
  if (!judged) return;
  put("given", `${judged.grade} ${NAMES[judged.grade]}`);
  put("of", `to “${judged.title}” for “${judged.query}”`);
  put("reason", judged.reason);
  $("votes").replaceChildren(...judged.votes.map((vote) => {
    const row = document.createElement("tr");
    const said = vote.grade === null ? "abstained" : `${vote.grade} ${NAMES[vote.grade]}`;
    for (const text of [vote.judge, said, `${Math.round(100 * vote.within_agreement)} %`, vote.rationale]) {
      const cell = document.createElement("td");
      cell.dir = "auto";
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  }));
}

async function ask(path, request) {
  if (busy) return;
  busy = true;
  const headers = { "x-serm-token": document.body.dataset.token, "x-serm-sitting": sitting };
  try {
    const answer = await fetch(path, { ...request, headers, signal: AbortSignal.timeout(30000) });
    const told = await answer.json();
    put("error", answer.ok ? "" : `Not saved: ${told.error}`);
    if (answer.ok) show(told);
  } catch {
    put("error", "Not saved: the server does not answer; is `serm review` still running?");
  } finally {
    busy = false;
  }
}

function act(action, body) { return ask(action, { method: "POST", body: JSON.stringify(body) }); }
function grade(value) { if (pair) act("grade", { identity: pair.identity, grade: value, note: $("note").value }); }
function skip() { if (pair) act("skip", { identity: pair.identity }); }
function undo() { act("undo", {}); }

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target === $("note")) {
    if (event.key === "Enter" || event.key === "Escape") $("note").blur();
    return;
  }
  if ("0123".includes(event.key) && event.key.length === 1) grade(Number(event.key));
  else if (event.key === "u") undo();
  else if (event.key === "s") skip();
  else if (event.key === "n" && pair) { event.preventDefault(); $("note").focus(); }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.grade) grade(Number(button.dataset.grade));
  else if (button.dataset.act === "skip") skip();
  else undo();
});
ask("state", {});
