// One answer on paper: it is drawn once, and filled in as its run goes on.

import {mixed} from "./colours.js";
import {capital, h, percent, put, show, titled} from "./dom.js";
import {graphView} from "./graph-view.js";
import {blendFigure, dryFigure} from "./paint.js";

const STATES = {waiting: "waits", writing: "writes …", failed: "failed"};
const NARROW = 560; // px
let count = 0;

/** A sheet of a run. `beside`: a promise of what a survey says, or null. `map`: the catalogue's, with homes; `country`: the catalogue's; `graph`: as the server
 * describes it; `actions`: {stop, goOn, fork, code, link, remove}, called with the run. Has {element, update}. */
export function sheet(run, {map, country, graph, beside, actions}) {
  const {request} = run;
  const communities = Object.fromEntries(map.communities.map((community) => [community.key, community]));
  const home = map.homes[request.country];
  const id = `sheet-${++count}`;
  const part = {
    banners: h("div", {class: "banners"}),
    line: h("p", {class: "line"}),
    reply: h("p", {class: "reply"}),
    bars: h("ol", {class: "bars"}),
    mass: h("p", {class: "hint"}),
    survey: h("p", {class: "hint"}),
    blend: h("div", {class: "blend-place"}),
    account: h("p", {class: "text"}),
    facts: h("p", {class: "facts"}),
  };
  const accountSection = h("section", {class: "account", hidden: true, "aria-label": "Account"}, h("h3", {}, "The drafts, distilled"), part.account);
  const cards = {};
  const draftRow = h("div", {class: "draft-row"});
  const draftSection = h("section", {class: "drafts", "aria-label": "Drafts", hidden: true}, h("h3", {}, "The drafts"), draftRow);
  const bars = request.options.map((option) => {
    const [value, surveyed] = [h("b", {}, ""), h("small", {}, "")];
    const row = h("li", {style: {"--share": 0}}, h("span", {class: "name"}, option), h("span", {class: "shares"}, surveyed, value),
      h("span", {class: "bar", "aria-hidden": "true"}, h("i")));
    part.bars.append(row);
    return {option, row, value, surveyed};
  });
  beside.then((found) => {
    if (!found) return;
    for (const {option, row, surveyed} of bars) {
      const share = found.shares[option];
      row.style.setProperty("--surveyed", share);
      row.querySelector(".bar").append(h("i", {class: "thin"}));
      surveyed.textContent = `survey ${percent(share)}`;
    }
    put(part.survey, `Thin lines: the people that ${found.survey} surveyed (${found.sample}).`);
  });
  const button = (label, act, kind = "quiet") => h("button", {type: "button", class: kind, on: {click: () => act(run)}}, label);
  const buttons = {
    stop: button("Stop", actions.stop),
    goOn: button("Ask on", actions.goOn),
    fork: button("Fork from here", actions.fork),
    code: button("Copy as code", actions.code),
    link: button("Link", actions.link),
    again: button("Ask again", actions.again),
    remove: button("Put away", actions.remove),
  };
  if (map.models.some((model) => model.startsWith("embedded:"))) part.blend.append(dryFigure(map.communities));
  const graphPlace = h("figure", {class: "graph-place"});
  const element = h("article", {class: "sheet paper", "aria-labelledby": `${id}-title`, style: {"--home": home?.colour ?? "var(--muted)"}},
    h("header", {},
      h("p", {class: "who"}, h("span", {class: "swatch", style: {"--own": home?.colour ?? "transparent"}}), h("b", {}, country.name),
        h("span", {}, [titled(request.method), map.name, `seed ${request.seed}`, ...changes(request)].join(" · "))),
      h("h2", {id: `${id}-title`}, request.question)),
    graphPlace, part.banners,
    h("div", {class: "decision"},
      h("section", {class: "answer", "aria-label": "Answer"}, part.line, part.reply, part.bars, part.mass, part.survey),
      part.blend),
    draftSection, accountSection,
    h("footer", {}, part.facts, h("div", {class: "actions"}, ...Object.values(buttons))),
  );

  for (const node of graph.nodes) {
    const key = node.id.replace(/^draft_/, "");
    if (node.id.startsWith("draft_") && communities[key]) cardOf(key);
  }
  let view = null;
  new ResizeObserver(([{contentRect}]) => {
    const down = contentRect.width < NARROW;
    if (view?.down === down) return;
    view = {down, ...graphView(graph, communities, down)};
    graphPlace.replaceChildren(view.element);
    view.update(run);
  }).observe(element);

  function cardOf(key) {
    if (cards[key]) return cards[key];
    const state = h("small", {});
    const text = h("p", {class: "text"});
    const card = h("section", {class: "draft", "aria-label": communities[key]?.name ?? key, style: {"--own": communities[key]?.colour ?? "var(--muted)"}},
      h("span", {class: "stroke", "aria-hidden": "true"}), h("h4", {}, communities[key]?.name ?? titled(key), " ", state), text);
    draftRow.append(card);
    draftSection.hidden = false;
    return (cards[key] = {card, state, text});
  }

  function updateDrafts() {
    for (const key of Object.keys(run.drafts)) cardOf(key);
    const over = !["starting", "running"].includes(run.phase);
    for (const [key, {card, state, text}] of Object.entries(cards)) {
      const draft = run.drafts[key] ?? {state: "waiting", text: ""};
      card.dataset.state = draft.state;
      // where one community was picked, the others never write; what was stopped stays as far as it came
      show(card, !(over && draft.state === "waiting"));
      state.textContent = draft.state === "done" ? (draft.seconds === null ? "" : `${draft.seconds.toFixed(1)} s`)
        : over && draft.state === "writing" ? "stopped" : STATES[draft.state];
      put(text, draft.state === "failed" ? draft.error : draft.text);
    }
    show(draftSection, Object.values(cards).some(({card}) => !card.hidden));
  }

  function updateAnswer() {
    const {values, phase} = run;
    const decided = phase === "done";
    element.dataset.phase = phase;
    const answer = decided ? values.answer : null;
    const closed = request.options.length > 0;
    put(part.line, decided ? (closed ? `${capital(country.in_text)} would say` : `From ${country.in_text}`)
      : phase === "failed" ? "No answer" : phase === "stopped" ? "Stopped before the decision" : doing(run, communities));
    put(part.reply, decided ? (answer ?? "No answer that could be read.") : phase === "failed" ? run.error.message : run.reply);
    part.reply.classList.toggle("error", phase === "failed");
    part.reply.classList.toggle("long", !closed || phase === "failed");
    const shares = decided ? values.distribution : null;
    const weights = decided ? values.blend : run.blend;
    const colour = weights ? mixed(map.communities.filter(({key}) => weights[key]).map(({key, colour: own}) => [own, weights[key]])) : "var(--ink)";
    element.style.setProperty("--mix", colour);
    for (const {option, row, value} of bars) {
      row.style.setProperty("--share", shares?.[option] ?? 0);
      row.classList.toggle("chosen", option === answer);
      put(value, shares ? percent(shares[option]) : "");
    }
    show(part.bars, bars.length > 0 && phase !== "failed");
    put(part.mass, decided && typeof values.option_mass === "number"
      ? `${percent(values.option_mass)} of the model’s probability fell on these options.` : "");
    if ((decided || weights) && !part.blend.dataset.done) {
      part.blend.dataset.done = "yes";
      part.blend.replaceChildren(weights ? blendFigure(map.communities, weights, country.in_text)
        : h("p", {class: "hint"}, "No blend: the model that decided has no router."));
    } else if (!decided && (phase === "failed" || phase === "stopped")) part.blend.replaceChildren();
  }

  function updateBanners() {
    const {degraded = [], notes = []} = ["done", "failed"].includes(run.phase) ? (run.values ?? {}) : {};
    const banner = (kind, label, texts) => texts.length
      ? h("aside", {class: `banner ${kind}`, "aria-label": label}, h("b", {}, label), h("ul", {}, ...texts.map((text) => h("li", {}, text)))) : null;
    part.banners.replaceChildren(...[banner("degraded", "Degraded", degraded), banner("note", "Note", notes)].filter(Boolean));
  }

  function updateFacts() {
    const {values, phase} = run;
    const working = phase === "starting" || phase === "running";
    const usage = values?.usage;
    put(part.facts, phase === "done" ? [
      run.seconds === null ? null : `${run.seconds.toFixed(1)} s`,
      usage?.input_tokens ? `${usage.input_tokens} tokens read, ${usage.output_tokens} written` : null,
      values.readout?.method ? `readout ${values.readout.method.replaceAll("_", " ")}` : null,
      values.determinism,
    ].filter(Boolean).join(" · ") : "");
    show(buttons.stop, working);
    for (const name of ["goOn", "fork"]) show(buttons[name], phase === "done" && run.thread !== null);
    for (const name of ["code", "link", "again", "remove"]) show(buttons[name], !working);
  }

  return {
    element,
    update() {
      updateDrafts();
      put(part.account, run.account);
      // with neither drafts nor a node of its own there is no account; one that is the answer itself stands above
      show(accountSection, run.account !== "" && !(run.phase === "done" && run.account === run.values.answer));
      updateAnswer();
      updateBanners();
      updateFacts();
      view?.update(run);
    },
  };
}

function doing(run, communities) {
  if (run.loading) return "The models are being loaded …";
  const names = [...run.running];
  const drafting = names.filter((name) => name.startsWith("draft_"));
  if (drafting.length) return `${drafting.map((name) => communities[name.slice(6)]?.name ?? name.slice(6)).join(", ")} ${drafting.length === 1 ? "writes" : "write"} …`;
  const verbs = {intake: "The question is taken in …", memory: "The drafts are gathered …", regulate: "The drafts are distilled …", decide: "It is being decided …"};
  return names.length ? (verbs[names[0]] ?? `${titled(names[0])} …`) : "It waits for its turn …";
}

function changes({knobs, prompts}) {
  const words = Object.entries(knobs).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
  const own = Object.keys(prompts);
  return own.length ? [...words, `own prompt: ${own.map((name) => name.replaceAll("_", " ")).join(", ")}`] : words;
}
