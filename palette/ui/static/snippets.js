// The same run as code: a dialog with a tab for each language.

import {byId, h} from "./dom.js";
import {snippets} from "./request.js";

/** Opens the dialog for a request. */
export function openSnippets(request, own, say) {
  const dialog = byId("snippets");
  const code = snippets(request, own);
  const text = h("code", {});
  const languages = Object.keys(code);
  const tabs = languages.map((language) => h("button", {
    type: "button", role: "tab", id: `tab-${language}`, "aria-controls": "snippet", on: {
      click: () => choose(language),
      keydown: (event) => {
        const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
        if (!step) return;
        const next = languages[(languages.indexOf(language) + step + languages.length) % languages.length];
        choose(next);
        byId(`tab-${next}`).focus();
      },
    },
  }, language));

  function choose(language) {
    text.textContent = code[language];
    for (const tab of tabs) {
      const chosen = tab.id === `tab-${language}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${language}`);
  }

  const panel = h("pre", {role: "tabpanel", id: "snippet", tabindex: 0}, text);
  const copy = h("button", {type: "button", class: "ink", on: {click: async () => {
    await copyText(text.textContent);
    copy.textContent = "Copied";
    say("Copied.");
  }}}, "Copy");
  dialog.replaceChildren(
    h("form", {method: "dialog", class: "row"}, h("h2", {id: "snippets-title"}, "The same run as code"), copy, h("button", {class: "quiet"}, "Close")),
    h("div", {role: "tablist", class: "tabs", "aria-label": "Language"}, ...tabs),
    panel,
  );
  choose(languages[0]);
  dialog.showModal();
}

/** To the clipboard. */
export async function copyText(text) {
  await navigator.clipboard.writeText(text);
}
