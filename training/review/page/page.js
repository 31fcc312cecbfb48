"use strict";
// Texts of models and people reach the page by textContent only; the policy in the head runs no other script.
(() => {
  const $ = (id) => document.getElementById(id);
  const about = JSON.parse($("about").textContent);
  const communities = about.communities;
  const total = about.queries.length;
  const NAMES = { approve: "Approved", edit: "Edited", reject: "Rejected" };
  const REASONS = ["Stereotype", "Not this community's view", "Borrowed from another community", "Wrong facts",
    "Contradicts itself", "Off the question", "Unsafe or hurtful", "Language"];
  const KEYS = [
    ["1 … 9", "choose an answer"], ["← →", "the answer before, after"], ["A", "approve"], ["E", "edit"], ["R", "reject"],
    ["⇧A", "approve all undecided answers of this query"], ["⇧R", "reject all undecided answers of this query"],
    ["N", "next query"], ["P", "previous query"], ["U or Enter", "next query with something undecided"],
    ["G", "go to a query by number or id"], ["F", "show undecided queries only, or all"], ["X", "open or close the steps"],
    ["Z", "undo"], ["S", "save decisions to a file"], ["T", "light or dark"], ["?", "these keys"],
  ];

  // ---- what was decided: query index -> {community: {decision, reason, text}} ----
  const decided = new Map();
  const undoable = [];
  const prefix = `cultural-palette-review:${about.id}:${about.reviewer || ""}:`;
  let at = 0, current = communities[0].key, expanded = false, unsaved = false;
  let store = null;
  try {
    store = window.localStorage;
    store.setItem(prefix, "");
  } catch {
    store = null;
  }

  const indexOf = new Map(about.queries.map((query, n) => [query.id, n]));
  const decidable = (n) => communities.map((c) => c.key).filter((key) => about.queries[n].hashes[key]);
  const open = (n) => decidable(n).filter((key) => !(decided.get(n) || {})[key]);
  const answersIn = about.queries.reduce((sum, _, n) => sum + decidable(n).length, 0);

  // Chunks of queries lie in the page as text; two of them are parsed at a time.
  const parsed = new Map();
  function load(n) {
    const number = Math.floor(n / about.chunk);
    if (!parsed.has(number)) {
      if (parsed.size > 1) parsed.delete(parsed.keys().next().value);
      parsed.set(number, JSON.parse($(`chunk-${number}`).textContent));
    }
    return parsed.get(number)[n % about.chunk];
  }

  function remember(n) {
    unsaved = true;
    if (!store) return;
    try {
      const found = decided.get(n);
      const key = prefix + about.queries[n].id;
      if (found && Object.keys(found).length) store.setItem(key, JSON.stringify(found));
      else store.removeItem(key);
    } catch {
      store = null;
      say("This browser keeps no more: save your decisions to a file now.");
    }
  }

  function recall() {
    if (!store) return 0;
    let count = 0;
    about.queries.forEach((query, n) => {
      const raw = store.getItem(prefix + query.id);
      if (!raw) return;
      try {
        const kept = {};
        for (const [key, each] of Object.entries(JSON.parse(raw))) {
          if (query.hashes[key] && sound(each)) { kept[key] = each; count += 1; }
        }
        decided.set(n, kept);
      } catch {
        store.removeItem(prefix + query.id);
      }
    });
    return count;
  }

  function sound(each) {
    const said = (text) => typeof text === "string" && text.trim() !== "";
    if (!each || !Object.hasOwn(NAMES, each.decision)) return false;
    if (each.decision !== "approve" && !said(each.reason)) return false;
    return each.decision === "edit" ? said(each.text) : true;
  }

  /** Take decisions of one query, or several: [[query index, {community: decision}], ..]; one step to undo. */
  function take(changes) {
    undoable.push(changes.map(([n]) => [n, { ...(decided.get(n) || {}) }]));
    for (const [n, found] of changes) {
      decided.set(n, { ...(decided.get(n) || {}), ...found });
      remember(n);
    }
    if (undoable.length > 500) undoable.shift();
  }

  function undo() {
    const last = undoable.pop();
    if (!last) return say("Nothing to undo.");
    for (const [n, found] of last) {
      decided.set(n, found);
      remember(n);
    }
    at = last[0][0];
    draw(last.length === 1 ? current : null);
    say("Undone.");
  }

  // ---- the page ----
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "colour") element.style.setProperty("--c", value);
      else if (name.startsWith("aria-") || name === "role") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  let quiet;
  function say(text) {
    const status = $("status");
    status.classList.remove("quiet");
    status.textContent = text;
    clearTimeout(quiet);
    quiet = setTimeout(() => status.classList.add("quiet"), 5000);
  }

  /** The text with the findings' quotes marked, as nodes. */
  function marked(text, findings) {
    const spots = [];
    const lower = text.toLowerCase();
    for (const each of findings) {
      if (!each.quote) continue;
      let start = text.indexOf(each.quote);
      if (start < 0 && lower.length === text.length) start = lower.indexOf(each.quote.toLowerCase());
      if (start >= 0) spots.push([start, start + each.quote.length, each.kind]);
    }
    spots.sort((one, other) => one[0] - other[0]);
    const nodes = [];
    let end = 0;
    for (const [from, to, kind] of spots) {
      if (from < end) continue;
      nodes.push(text.slice(end, from), make("mark", { title: kind.replaceAll("_", " "), textContent: text.slice(from, to) }));
      end = to;
    }
    nodes.push(text.slice(end));
    return nodes;
  }

  function card(community, position, answer, decision) {
    const { key, name, colour } = community;
    const may = Boolean(about.queries[at].hashes[key]);
    const state = decision ? decision.decision : "";
    const label = decision ? NAMES[state] : !answer ? "No answer" : may ? "Undecided" : "Set aside";
    const body = [];
    body.push(make("div", { className: "head" },
      make("h3", { id: `name-${position}` }, make("span", { className: "dot", "aria-hidden": "true" }), name),
      make("span", { className: `state ${state}`, textContent: label }),
      position < 9 ? make("kbd", { textContent: String(position + 1), "aria-hidden": "true" }) : null));
    if (answer) {
      const shown = state === "edit" ? decision.text : answer.response;
      if (shown) body.push(make("div", { className: "text", dir: "auto" }, ...marked(shown, answer.findings)));
      else body.push(make("p", { className: "muted", textContent: answer.error || "There is no text." }));
      if (decision && decision.reason) body.push(make("p", { className: "note", dir: "auto", textContent: `Reason: ${decision.reason}` }));
      if (answer.findings.length) {
        body.push(make("ul", { className: "findings", "aria-label": "Findings" }, ...answer.findings.map((each) => make("li", {},
          make("b", { textContent: each.kind.replaceAll("_", " ") }),
          make("span", { textContent: each.detail, dir: "auto" }),
          each.quote ? make("q", { textContent: each.quote, dir: "auto" }) : null))));
      }
      const steps = Object.entries(answer.steps);
      if (state === "edit" && answer.response) steps.unshift(["before the edit", answer.response]);
      if (steps.length) {
        body.push(make("details", { open: expanded },
          make("summary", { textContent: answer.rounds > 1 ? `Steps (${answer.rounds} rounds)` : "Steps" }),
          ...steps.flatMap(([step, text]) => [make("b", { textContent: step }), make("div", { className: "text", dir: "auto", textContent: text })])));
      }
    }
    if (may) {
      const button = (kind, text, hint) => {
        const made = make("button", { type: "button", className: kind, "aria-pressed": String(state === kind), "aria-label": `${text} ${name}`, title: `Key ${hint}`, textContent: text });
        made.addEventListener("click", () => { choose(key); decide(kind); });
        return made;
      };
      body.push(make("div", { className: "actions" }, button("approve", "Approve", "A"), button("edit", "Edit", "E"), button("reject", "Reject", "R")));
    }
    const made = make("section", { className: `card ${state}`, tabIndex: 0, colour, "aria-labelledby": `name-${position}` }, ...body);
    made.dataset.community = key;
    made.addEventListener("focus", () => choose(key, false));
    return made;
  }

  function draw(focus = null) {
    const query = about.queries[at];
    const texts = load(at);
    const found = decided.get(at) || {};
    $("query").textContent = texts.query;
    const home = communities.find((c) => c.key === texts.source.community);
    $("meta").textContent = [`Query ${query.id}`, texts.source.dataset, texts.source.birth_country && `asked by someone born in ${texts.source.birth_country}${home ? ` (${home.name})` : ""}`,
      query.flagged && "with findings"].filter(Boolean).join(" · ");
    $("cards").replaceChildren(...communities.map((each, n) => card(each, n, texts.answers[each.key], found[each.key])));
    $("jump").value = String(at + 1);
    $("of").textContent = `of ${total.toLocaleString("en")}`;
    $("undo").disabled = !undoable.length;
    const left = open(at);
    $("approve-all").disabled = $("reject-all").disabled = !left.length;
    $("hint").textContent = left.length ? "" : "All decided. Enter: next undecided query.";
    count();
    choose(focus || left[0] || current);
  }

  /** Every query with its answers, for paper: the page itself shows one. */
  function layOut() {
    const here = at;
    const sheets = about.queries.map((query, n) => {
      at = n;
      const texts = load(n), found = decided.get(n) || {};
      const cards = communities.map((each, position) => card(each, position, texts.answers[each.key], found[each.key]));
      return make("section", { className: "sheet" }, make("h2", { textContent: `${n + 1}. ${texts.query}`, dir: "auto" }), ...cards);
    });
    at = here;
    $("paper").replaceChildren(...sheets);
    for (const each of $("paper").querySelectorAll("[id]")) each.removeAttribute("id");
  }

  window.addEventListener("beforeprint", layOut);
  window.addEventListener("afterprint", () => $("paper").replaceChildren());

  function count() {
    let answers = 0, queries = 0;
    for (let n = 0; n < total; n += 1) {
      const left = open(n).length;
      answers += decidable(n).length - left;
      if (!left) queries += 1;
    }
    $("progress").max = answersIn || 1;
    $("progress").value = answers;
    $("progress-text").textContent = `${answers.toLocaleString("en")} of ${answersIn.toLocaleString("en")} answers · ${queries.toLocaleString("en")} of ${total.toLocaleString("en")} queries`;
  }

  function choose(key, focus = true) {
    current = key;
    for (const each of $("cards").children) {
      const chosen = each.dataset.community === key;
      each.setAttribute("aria-current", String(chosen));
      if (!chosen || !focus || document.querySelector("dialog[open]")) continue;
      each.focus({ preventScroll: true });
      const { top } = each.getBoundingClientRect();
      if (top > window.innerHeight - 120 || top < 0) each.scrollIntoView({ block: top < 0 ? "start" : "nearest" });
    }
  }

  function go(n, focus = null) {
    at = Math.min(Math.max(n, 0), total - 1);
    window.scrollTo(0, 0);
    draw(focus);
  }

  function fits(n) {
    const kind = $("filter").value;
    if (kind === "undecided") return open(n).length > 0;
    if (kind === "flagged") return about.queries[n].flagged;
    if (kind === "changed") return Object.values(decided.get(n) || {}).some((each) => each.decision !== "approve");
    return true;
  }

  function move(step) {
    for (let n = at + step; n >= 0 && n < total; n += step) if (fits(n)) return go(n);
    say(step > 0 ? "That was the last query." : "This is the first query.");
  }

  function nextUndecided() {
    for (let k = 1; k <= total; k += 1) {
      const n = (at + k) % total;
      if (open(n).length) return go(n);
    }
    say("Every answer is decided. Save your decisions.");
  }

  function jump() {
    const wanted = $("jump").value.trim();
    const n = indexOf.has(wanted) ? indexOf.get(wanted) : /^\d+$/.test(wanted) ? Number(wanted) - 1 : -1;
    if (n < 0 || n >= total) {
      $("jump").value = String(at + 1);
      return say(`No query ${wanted}: there are 1 to ${total}.`);
    }
    go(n);
  }

  // ---- deciding ----
  async function decide(kind) {
    if (!about.queries[at].hashes[current]) return say("There is no answer to decide on.");
    const before = (decided.get(at) || {})[current];
    let decision = { decision: kind, reason: null, text: null };
    if (kind !== "approve") {
      const name = communities.find((c) => c.key === current).name;
      decision = await ask(kind, name, load(at).answers[current].response, before);
      if (!decision) return draw(current);
    }
    take([[at, { [current]: decision }]]);
    say(`${communities.find((c) => c.key === current).name}: ${NAMES[kind].toLowerCase()}.`);
    draw(nextOpen());
  }

  /** The undecided answer after the current one, round the corner; the current one when there is none. */
  function nextOpen() {
    const keys = communities.map((c) => c.key), left = open(at), here = keys.indexOf(current);
    return [...keys.slice(here + 1), ...keys.slice(0, here)].find((key) => left.includes(key)) || current;
  }

  async function decideAll(kind) {
    const left = open(at);
    if (!left.length) return say("Everything here is decided.");
    let decision = { decision: kind, reason: null, text: null };
    if (kind === "reject") {
      decision = await ask(kind, `${left.length} answers`, null, null);
      if (!decision) return draw(current);
    }
    take([[at, Object.fromEntries(left.map((key) => [key, { ...decision }]))]]);
    say(`${left.length} answers: ${NAMES[kind].toLowerCase()}.`);
    draw();
  }

  /** The dialog for a reason, and for an edit's text; null when it was left. */
  function ask(kind, name, text, before) {
    const dialog = $("decide");
    const editing = kind === "edit";
    $("decide-title").textContent = `${editing ? "Edit" : "Reject"}: ${name}`;
    $("edit-part").hidden = !editing;
    $("edit-text").value = editing ? (before && before.text) || text : "";
    $("reason").value = (before && before.reason) || "";
    $("decide-error").textContent = "";
    dialog.returnValue = "";
    dialog.showModal();
    (editing ? $("edit-text") : $("reason")).focus();
    return new Promise((resolve) => {
      const finish = (value) => {
        $("decide-form").onsubmit = dialog.oncancel = $("decide-cancel").onclick = null;
        if (dialog.open) dialog.close();
        resolve(value);
      };
      dialog.oncancel = () => finish(null);
      $("decide-cancel").onclick = () => finish(null);
      $("decide-form").onsubmit = (event) => {
        event.preventDefault();
        const reason = $("reason").value.trim();
        const edited = $("edit-text").value.trim();
        const wrong = !reason ? "Say why: the reason goes with the decision."
          : editing && !edited ? "The answer is empty. To take it out, reject it."
          : editing && edited === text.trim() ? "Nothing is changed. To keep it as it is, approve it." : "";
        if (wrong) {
          $("decide-error").textContent = wrong;
          (reason ? $("edit-text") : $("reason")).focus();
          return;
        }
        finish({ decision: kind, reason, text: editing ? edited : null });
      };
    });
  }

  // ---- files ----
  function save() {
    const reviewer = $("reviewer").value.trim();
    if (!reviewer) {
      $("reviewer").focus();
      return say("Say who you are first.");
    }
    const decisions = [];
    about.queries.forEach((query, n) => {
      for (const { key } of communities) {
        const each = (decided.get(n) || {})[key];
        if (each) decisions.push({ query_id: query.id, community: key, decision: each.decision, reason: each.reason || null, text: each.decision === "edit" ? each.text : null, text_hash: query.hashes[key] });
      }
    });
    if (!decisions.length) return say("Nothing is decided yet.");
    const data = JSON.stringify({ format: about.format, reviewer, run: about.run, decisions }, null, 1);
    const link = make("a", { href: URL.createObjectURL(new Blob([data + "\n"], { type: "application/json" })), download: `decisions-${slug(reviewer)}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
    say(`${decisions.length} decisions saved to ${link.download}.`);
  }

  const slug = (name) => name.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").toLowerCase() || "reviewer";

  async function read(file) {
    let data;
    try {
      data = JSON.parse(await file.text());
    } catch {
      return say(`${file.name} is not JSON.`);
    }
    if (!data || data.format !== about.format || !Array.isArray(data.decisions)) return say(`${file.name} is no decisions file.`);
    const changes = new Map();
    let taken = 0, unknown = 0, stale = 0, broken = 0;
    for (const each of data.decisions) {
      const n = indexOf.get(each && each.query_id);
      const hash = n === undefined ? undefined : about.queries[n].hashes[each.community];
      if (!hash) unknown += 1;
      else if (each.text_hash && each.text_hash !== hash) stale += 1;
      else if (!sound(each)) broken += 1;
      else {
        const { decision, reason = null, text = null } = each;
        changes.set(n, { ...(changes.get(n) || {}), [each.community]: { decision, reason, text } });
        taken += 1;
      }
    }
    if (taken) take([...changes]);
    if (!$("reviewer").value.trim() && typeof data.reviewer === "string") setReviewer(data.reviewer);
    go(at);
    say([`${taken} decisions loaded`, unknown && `${unknown} are about answers not in this page`, stale && `${stale} are about an older text`, broken && `${broken} lack a reason or a text`].filter(Boolean).join("; ") + ".");
  }

  function setReviewer(name) {
    $("reviewer").value = name;
    try { if (store) store.setItem(`${prefix}#reviewer`, name); } catch { /* the name is typed again next time */ }
  }

  function theme() {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    try { if (store) store.setItem("cultural-palette-review:theme", document.documentElement.dataset.theme); } catch { /* only looks */ }
  }

  function steps() {
    expanded = !expanded;
    $("expand").setAttribute("aria-pressed", String(expanded));
    for (const each of document.querySelectorAll(".card details")) each.open = expanded;
  }

  function along(step) {
    const keys = communities.map((c) => c.key);
    choose(keys[(keys.indexOf(current) + step + keys.length) % keys.length]);
  }

  // ---- keys ----
  const ACTIONS = {
    a: () => decide("approve"), e: () => decide("edit"), r: () => decide("reject"),
    A: () => decideAll("approve"), R: () => decideAll("reject"),
    n: () => move(1), p: () => move(-1), u: nextUndecided, Enter: nextUndecided,
    ArrowRight: () => along(1), ArrowLeft: () => along(-1),
    g: () => { $("jump").focus(); $("jump").select(); },
    f: () => { $("filter").value = $("filter").value === "undecided" ? "all" : "undecided"; $("filter").dispatchEvent(new Event("change")); },
    x: steps, z: undo, s: save, t: theme, "?": () => $("keys").showModal(),
  };

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && $("decide").open) {
        event.preventDefault();
        $("decide-form").requestSubmit();
      }
      return;
    }
    const typing = event.target.closest("input, textarea, select");
    if (typing || event.isComposing) return;
    if (event.key === "Enter" && event.target.closest("button, summary, a")) return;
    if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); return undo(); }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^[1-9]$/.test(event.key) && communities[Number(event.key) - 1]) {
      event.preventDefault();
      return choose(communities[Number(event.key) - 1].key);
    }
    const single = event.key.length === 1;
    const name = single && !event.shiftKey ? event.key.toLowerCase() : single && /[a-z]/i.test(event.key) ? event.key.toUpperCase() : event.key;
    if (Object.hasOwn(ACTIONS, name)) {
      event.preventDefault();
      ACTIONS[name]();
    }
  });

  const clicks = { previous: () => move(-1), next: () => move(1), "next-undecided": nextUndecided, undo, save, theme, expand: steps,
    "approve-all": () => decideAll("approve"), "reject-all": () => decideAll("reject"), help: () => $("keys").showModal(), load: () => $("load-file").click() };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  $("jump").addEventListener("change", jump);
  $("jump").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); event.target.blur(); choose(current); } });
  $("reviewer").addEventListener("change", (event) => setReviewer(event.target.value.trim()));
  $("reviewer").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.target.blur(); choose(current); } });
  $("filter").addEventListener("change", () => {
    $("filter").blur();
    for (let k = 0; k < total; k += 1) if (fits((at + k) % total)) return go((at + k) % total);
    say("No query is like that.");
    $("filter").value = "all";
  });
  $("load-file").addEventListener("change", async (event) => {
    if (event.target.files.length) await read(event.target.files[0]);
    event.target.value = "";
  });
  window.addEventListener("beforeunload", (event) => { if (unsaved && !store) event.preventDefault(); });

  $("run").textContent = about.run;
  document.title = `Review of ${about.run}`;
  $("swatches").append(...communities.map((each) => make("i", { colour: each.colour })));
  $("key-list").append(...KEYS.flatMap(([key, what]) => [make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: what })]));
  $("reasons").append(...REASONS.map((text) => {
    const chip = make("button", { type: "button", textContent: text });
    chip.addEventListener("click", () => { $("reason").value = [$("reason").value.trim(), text].filter(Boolean).join("; "); $("reason").focus(); });
    return chip;
  }));
  try {
    const kept = store && store.getItem("cultural-palette-review:theme");
    if (kept) document.documentElement.dataset.theme = kept;
    $("reviewer").value = about.reviewer || (store && store.getItem(`${prefix}#reviewer`)) || "";
  } catch { /* the page works without */ }
  const kept = recall();
  at = Math.max(0, about.queries.findIndex((_, n) => open(n).length));
  draw();
  unsaved = false;
  if (!store) say("This browser keeps nothing for this page: save your decisions to a file often.");
  else if (kept) say(`${kept} decisions of an earlier sitting are here again.`);
})();
