// The prompts of the nodes: read, changed for the next run, reset.

import {byId, h, put, show, titled} from "./dom.js";

const FIELD = /\{([a-z_]+)\}/g;

/** The editor of the catalogue's prompts. {changed, set, fault, mark}. */
export function promptEditor(prompts) {
  const dialog = byId("prompts");
  const texts = Object.fromEntries(prompts.map(({name, text}) => [name, text]));
  const areas = {};
  const notes = {};
  const resets = {};
  const cards = prompts.map(({name, node, fields, text}) => {
    areas[name] = h("textarea", {id: `prompt-${name}`, rows: Math.min(16, text.split("\n").length + 1), spellcheck: "false",
      "aria-describedby": `prompt-${name}-fields`, value: text, on: {input: () => mark()}});
    notes[name] = h("p", {class: "error", role: "status"});
    resets[name] = h("button", {type: "button", class: "quiet", disabled: true, on: {click: () => {
      areas[name].value = text;
      mark();
      areas[name].focus();
    }}}, "Reset");
    return h("section", {class: "prompt"},
      h("div", {class: "row"}, h("h3", {}, h("label", {for: `prompt-${name}`}, titled(name))), h("small", {}, `node ${node}`), resets[name]),
      areas[name],
      h("p", {class: "hint", id: `prompt-${name}-fields`}, `Uses ${fields.map((field) => `{${field}}`).join(" ")}; [system] and [user] on lines of their own.`),
      notes[name]);
  });
  dialog.append(
    h("form", {method: "dialog", class: "row"}, h("h2", {id: "prompts-title"}, "Prompts"),
      h("button", {type: "button", class: "quiet", on: {click: () => set({})}}, "Reset all"), h("button", {class: "ink"}, "Done")),
    h("p", {class: "hint"}, "A changed prompt goes with the next run only; the nano palette was trained on these texts."),
    ...cards,
  );
  byId("open-prompts").addEventListener("click", () => dialog.showModal());

  const changed = () => Object.fromEntries(
    prompts.map(({name}) => [name, areas[name].value]).filter(([name, text]) => text !== texts[name]));

  function faultOf({name, fields}) {
    const text = areas[name].value;
    const used = new Set([...text.matchAll(FIELD)].map(([, field]) => field));
    const missing = fields.filter((field) => !used.has(field));
    const unknown = [...used].filter((field) => !fields.includes(field));
    const headed = /^\s*\[system\][ \t]*\n[^]*^\[user\][ \t]*$/m.test(text);
    return [
      missing.length ? `It does not use ${missing.map((field) => `{${field}}`).join(", ")}.` : "",
      unknown.length ? `It has no ${unknown.map((field) => `{${field}}`).join(", ")}.` : "",
      headed ? "" : "It needs a line [system], then a line [user].",
    ].filter(Boolean).join(" ");
  }

  function mark() {
    const count = Object.keys(changed()).length;
    for (const prompt of prompts) {
      const own = areas[prompt.name].value !== texts[prompt.name];
      resets[prompt.name].disabled = !own;
      put(notes[prompt.name], own ? faultOf(prompt) : "");
    }
    show(byId("prompts-changed"), count > 0);
    byId("prompts-changed").textContent = `${count} changed`;
  }

  function set(values) {
    for (const {name} of prompts) areas[name].value = values[name] ?? texts[name];
    mark();
  }

  return {
    changed, set, mark,
    fault() {
      const wrong = prompts.find((prompt) => areas[prompt.name].value !== texts[prompt.name] && faultOf(prompt));
      return wrong ? `The prompt “${titled(wrong.name)}”: ${faultOf(wrong)}` : null;
    },
  };
}
